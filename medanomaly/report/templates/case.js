// What a reader does on the page of a case: sliders, the cross with its values, and the table of regions.
// window.report is for tests and for the curious: report.ready resolves when the view is drawn.
(() => {
  const data = JSON.parse(document.getElementById("viewer").textContent);
  const byId = (id) => document.getElementById(id), canvas = byId("view"), stage = canvas.parentElement;
  const on = (id, event, act) => byId(id) && byId(id).addEventListener(event, act);

  // a rarity r stands for 10^-r of normal voxels that score as high: 3 is 99.9 %
  function percent(rarity) {
    if (rarity < 0) return "not scored";
    if (rarity >= 5) return "above 99.999 %";
    return `${(100 * (1 - 10 ** -rarity)).toFixed(Math.max(0, Math.ceil(rarity) - 1))} %`;
  }
  function place(mm) {
    return mm.map((value, axis) => `${(value < 0 ? "LPI" : "RAS")[axis]} ${Math.abs(value).toFixed(1)}`).join(", ");
  }
  function number(value) { return Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString(); }

  let view = null;
  function tell() {
    if (view === null) return;
    const here = view.crosshair();
    byId("position").textContent = data.world === false ? "unknown" : `${place(here.mm)} mm`;
    byId("voxel").textContent = here.voxel.map((index) => Math.round(index)).join(", ");
    byId("value").textContent = number(here.scan);
    byId("percent").textContent = percent(here.rarity);
  }
  function setThreshold(rarity) {
    byId("threshold").value = rarity;
    byId("threshold-said").textContent = percent(Number(rarity));
    if (view) view.setThreshold(Number(rarity));
  }
  let hidden = false;
  function setOpacity(opacity) {
    byId("opacity").value = opacity;
    byId("opacity-said").textContent = `${Math.round(100 * opacity)} %`;
    if (view) view.setOpacity(hidden ? 0 : Number(opacity));
  }
  function hide() {
    hidden = !hidden;
    byId("hide").textContent = `${hidden ? "show" : "hide"} heatmap (H)`;
    setOpacity(byId("opacity").value);
  }
  function moveTo(mm) {
    if (view) view.moveTo(mm);
    tell();
  }

  const rows = Array.from(document.querySelectorAll("#regions tbody tr"));
  for (const row of rows) {
    const go = () => {
      rows.forEach((other) => other.classList.toggle("here", other === row));
      moveTo(JSON.parse(row.dataset.mm));
      stage.scrollIntoView({ block: "nearest", behavior: "smooth" });
    };
    row.addEventListener("click", go);
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") go(); });
  }
  on("opacity", "input", (event) => setOpacity(event.target.value));
  on("threshold", "input", (event) => setThreshold(event.target.value));
  on("channel", "change", (event) => view && view.setChannel(Number(event.target.value)));
  on("planes", "change", (event) => view && view.setPlanes(event.target.value));
  on("cut", "change", (event) => view && view.setCut(event.target.checked));
  on("hide", "click", hide);
  on("reset", "click", () => { if (hidden) hide(); setOpacity(0.75); setThreshold(data.threshold); });
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() === "h" && !event.ctrlKey && !event.metaKey && !event.altKey) hide();
  });
  const stops = data.colours.filter((_, i) => i % 15 === 0).map((colour) => `rgb(${colour.join(",")})`);
  byId("bar").style.background = `linear-gradient(to right, ${stops.join(",")})`;
  if (data.world === false) byId("voxel-word").textContent = "pixel";
  setThreshold(data.threshold);
  setOpacity(0.75);

  function apologise(why) {
    const note = document.createElement("div");
    note.className = "plain";
    note.textContent = why;
    stage.replaceChildren(note);
  }
  async function open() {
    if (data.kind === "volume" && !document.createElement("canvas").getContext("webgl2")) {
      apologise("This browser has no WebGL 2, which the viewer needs. The slices below show the same.");
      return false;
    }
    try {
      view = await openView(canvas, data, tell);
    } catch (error) {
      apologise(`The viewer could not start (${error.message}). The slices below show the same.`);
      throw error;
    }
    setThreshold(byId("threshold").value);
    setOpacity(byId("opacity").value);
    if (rows.length) moveTo(JSON.parse(rows[0].dataset.mm));
    tell();
    return true;
  }
  window.report = { ready: open(), moveTo, setThreshold, setOpacity, crosshair: () => view.crosshair(), percent, get view() { return view; } };
})();
