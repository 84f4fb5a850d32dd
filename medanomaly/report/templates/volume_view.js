// The viewer of a volume, drawn by NiiVue: slices in three planes and in 3-D, the heatmap above the scan.
// openView(canvas, data, moved) gives what case.js drives; film_view.js gives the same for an image of one slice.
async function openView(canvas, data, moved) {
  const text = (id) => document.getElementById(id).textContent;
  const planes = niivue.SLICE_TYPE;
  const kinds = { all: planes.MULTIPLANAR, axial: planes.AXIAL, coronal: planes.CORONAL, sagittal: planes.SAGITTAL, render: planes.RENDER };
  const nv = new niivue.Niivue({
    logLevel: "error", dragAndDropEnabled: false, isRadiologicalConvention: true, isSliceMM: false,
    backColor: [0, 0, 0, 1], clipPlaneColor: [0, 0, 0, 0], fontColor: [0.85, 0.85, 0.85, 1], crosshairColor: [0.35, 0.85, 0.95, 0.9], crosshairWidth: 1, crosshairWidthUnit: "voxels", crosshairGap: 8,
    show3Dcrosshair: true, showAllOrientationMarkers: true, multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS, multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID,
    multiplanarPadPixels: 4, dragMode: niivue.DRAG_MODE.contrast,
  });
  await nv.attachToCanvas(canvas);
  function paintAbove(rarity) {  // each rarity keeps its colour, whatever the threshold: NiiVue stretches them from it
    const places = [0, ...Array.from({ length: 32 }, (_, i) => (1 + (254 * i) / 31) / 255)];  // 0: what lies below
    const colours = places.map((share) => {
      const at = rarity + share * (data.to - rarity);
      return data.colours[Math.round((255 * (at - data.from)) / (data.to - data.from))];
    });
    const channel = (c) => colours.map((colour) => colour[c]);
    nv.addColormap("heat", { R: channel(0), G: channel(1), B: channel(2), A: places.map((share) => (share === 0 ? 0 : 255)), I: places.map((share) => Math.round(255 * share)) });
  }
  paintAbove(data.threshold);
  const open = (id, name, colormap, low, high) => niivue.NVImage.loadFromBase64({ base64: text(id), name: `${name}.nii.gz`, colormap, cal_min: low, cal_max: high });
  for (const [number, window] of data.windows.entries()) nv.addVolume(await open(`scan-${number}`, `scan-${number}`, "gray", ...window));
  nv.addVolume(await open("rarity", "heatmap", "heat", data.threshold, data.to));
  const last = data.windows.length, heat = nv.volumes[last];
  for (let number = 1; number < last; number++) nv.setOpacity(number, 0);
  nv.setSliceType(kinds.all);

  let shown = 0, cut = true;
  const view = {
    nv,
    crosshair() {
      const at = nv.scene.crosshairPos, voxel = nv.frac2vox(at, 0);
      const value = (number) => nv.volumes[number].getValue(...voxel);
      return {
        mm: Array.from(nv.frac2mm(at, 0, true)).slice(0, 3),
        voxel: fileOrder(Array.from(voxel)),
        scan: value(shown), rarity: value(last),
      };
    },
    moveTo(mm) {
      nv.scene.crosshairPos = nv.mm2frac(mm, 0, true);
      turn();
      nv.createOnLocationChange();
    },
    setThreshold(rarity) {
      heat.cal_min = Math.min(rarity, data.to - 0.01);
      paintAbove(heat.cal_min);
      nv.updateGLVolume();
    },
    setOpacity(opacity) { nv.setOpacity(last, opacity); },
    setChannel(number) {
      shown = number;
      for (let other = 1; other < last; other++) nv.setOpacity(other, other === number ? 1 : 0);
      moved();
    },
    setPlanes(name) { nv.setSliceType(kinds[name]); },
    setCut(open) { cut = open; turn(); },
  };
  // NiiVue counts voxels along the patient's axes; a reader counts them as the file does
  function fileOrder(voxel) {
    const [columns, rows, slices] = nv.volumes[0].dimsRAS.slice(1), order = nv.volumes[0].permRAS;
    const found = [0, 0, 0], size = [columns, rows, slices];
    order.forEach((axis, i) => { found[Math.abs(axis) - 1] = axis > 0 ? voxel[i] : size[i] - 1 - voxel[i]; });
    return found;
  }
  // seen from the right, what lies to the right of the cross is left out
  function turn() {
    nv.setClipPlane([cut ? nv.scene.crosshairPos[0] - 0.5 : 2, 90, 0]);
  }
  nv.setRenderAzimuthElevation(245, 12);
  nv.onLocationChange = () => { moved(); };
  turn();
  return view;
}
