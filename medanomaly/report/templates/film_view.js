// The viewer of an image of one slice: the scan as a picture, and its heatmap above it.
async function openView(canvas, data, moved) {
  const pixels = async (address) => {
    const image = new Image();
    image.src = address;
    await image.decode();
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [image.width, image.height];
    const context = sheet.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return { sheet, context, bytes: context.getImageData(0, 0, image.width, image.height) };
  };
  const scan = await pixels(data.scan), rarity = await pixels(data.rarity);
  const [width, height] = [scan.sheet.width, scan.sheet.height];
  const codes = Uint8Array.from({ length: width * height }, (_, i) => rarity.bytes.data[4 * i]);
  const rarityOf = (code) => (code === 0 ? -1 : ((code - 1) * 5) / 254);
  let at = [Math.floor(width / 2), Math.floor(height / 2)], threshold = data.threshold, opacity = 0.75;

  function paint() {
    const heat = rarity.context.createImageData(width, height);
    codes.forEach((code, i) => {
      const found = rarityOf(code);
      if (found < threshold) return;
      const place = Math.min(255, Math.max(0, Math.round((255 * (found - data.from)) / (data.to - data.from))));
      heat.data.set([...data.colours[place], 255], 4 * i);
    });
    rarity.context.putImageData(heat, 0, 0);
  }
  function frame() {
    const scale = Math.min(canvas.width / (width * data.pixel[0]), canvas.height / (height * data.pixel[1]));
    const [w, h] = [width * data.pixel[0] * scale, height * data.pixel[1] * scale];
    return { x: (canvas.width - w) / 2, y: (canvas.height - h) / 2, w, h };
  }
  function draw() {
    const ratio = window.devicePixelRatio || 1, context = canvas.getContext("2d");
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const { x, y, w, h } = frame();
    context.imageSmoothingQuality = "high";
    context.drawImage(scan.sheet, x, y, w, h);
    context.globalAlpha = opacity;
    context.drawImage(rarity.sheet, x, y, w, h);
    context.globalAlpha = 1;
    const [cx, cy] = [x + ((at[0] + 0.5) * w) / width, y + ((at[1] + 0.5) * h) / height];
    context.strokeStyle = "rgba(90, 217, 242, 0.9)";
    context.lineWidth = ratio;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(cx + dx * 12 * ratio, cy + dy * 12 * ratio);
      context.lineTo(cx + dx * 44 * ratio, cy + dy * 44 * ratio);
    }
    context.stroke();
    if (!data.world) return;
    context.fillStyle = "#ddd";
    context.font = `${15 * ratio}px sans-serif`;
    context.textBaseline = "middle";
    context.fillText(data.sides[0], x + 6 * ratio, canvas.height / 2);
    context.textAlign = "right";
    context.fillText(data.sides[1], x + w - 6 * ratio, canvas.height / 2);
  }
  const clamp = (value, size) => Math.min(size - 1, Math.max(0, value));
  function moveToPixel(column, row) {
    at = [clamp(Math.floor(column), width), clamp(Math.floor(row), height)];
    draw();
    moved();
  }
  const view = {
    crosshair() {
      const i = at[1] * width + at[0];
      const mm = data.affine.map((line) => line[0] * at[0] + line[1] * at[1] + line[3]);
      return { mm, voxel: at, scan: scan.bytes.data[4 * i] * data.step + data.start, rarity: rarityOf(codes[i]) };
    },
    moveTo(mm) {  // the nearest pixel, by least squares over the two directions of the picture
      const [a, b] = [0, 1].map((c) => data.affine.map((line) => line[c]));
      const d = mm.map((value, i) => value - data.affine[i][3]);
      const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
      const whole = dot(a, a) * dot(b, b) - dot(a, b) ** 2;
      const column = (dot(d, a) * dot(b, b) - dot(d, b) * dot(a, b)) / whole;
      const row = (dot(d, b) * dot(a, a) - dot(d, a) * dot(a, b)) / whole;
      moveToPixel(column + 0.5, row + 0.5);
    },
    setThreshold(value) { threshold = value; paint(); draw(); },
    setOpacity(value) { opacity = value; draw(); },
  };
  canvas.addEventListener("pointerdown", (event) => {
    const ratio = window.devicePixelRatio || 1, { x, y, w, h } = frame(), box = canvas.getBoundingClientRect();
    moveToPixel((((event.clientX - box.left) * ratio - x) * width) / w, (((event.clientY - box.top) * ratio - y) * height) / h);
  });
  window.addEventListener("resize", draw);
  paint();
  draw();
  return view;
}
