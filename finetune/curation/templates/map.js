"use strict";
(() => {
  const element = (id) => document.getElementById(id);
  const data = JSON.parse(element("data").textContent);
  const total = data.rows.length;
  const haystack = data.texts.map((text) => text.toLowerCase());
  const canvas = element("map"), pen = canvas.getContext("2d");
  const MARGIN = 16, REACH = 12, CELL = 24; // CSS pixels
  const PALETTE = 12;

  let colouring, on; // the chosen colouring, and which of its categories are shown
  let shown = [], first = []; // indices of shown points, and the category whose colour each point has
  let view = { zoom: 1, x: 0, y: 0 }; // screen = place * zoom + (x, y)
  let cells = new Map(), hovered = -1, queued = false;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const count = (number) => number.toLocaleString("en");

  function colours() {
    const { labels, ordered, quiet } = colouring;
    const loud = labels.map((_, i) => i).filter((i) => !quiet.includes(i));
    return labels.map((_, i) => {
      if (quiet.includes(i)) return css("--quiet");
      const at = loud.indexOf(i);
      if (!ordered) return css(`--c${at % PALETTE}`);
      const share = loud.length > 1 ? Math.round((100 * at) / (loud.length - 1)) : 100;
      return `color-mix(in oklch, ${css("--high")} ${share}%, ${css("--low")})`;
    });
  }

  function place(i) {
    const { clientWidth: width, clientHeight: height } = canvas;
    const side = Math.max(1, Math.min(width, height) - 2 * MARGIN);
    const x = (width - side) / 2 + data.x[i] * side, y = (height - side) / 2 + (1 - data.y[i]) * side;
    return [x * view.zoom + view.x, y * view.zoom + view.y];
  }

  function filter() {
    const wanted = element("search").value.trim().toLowerCase();
    shown = [];
    for (let i = 0; i < total; i++) {
      first[i] = colouring.of[i].find((category) => on[category]) ?? -1;
      const found = !wanted || haystack[i].includes(wanted) || String(data.rows[i]) === wanted;
      if (first[i] >= 0 && found) shown.push(i);
    }
    element("count").textContent = `${count(shown.length)} of ${count(total)} rows shown`;
    about(-1);
    redraw();
  }

  function redraw() {
    if (!queued) requestAnimationFrame(draw);
    queued = true;
  }

  function draw() {
    queued = false;
    const ratio = window.devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const radius = (total > 4000 ? 2 : total > 800 ? 3 : 4) * Math.min(2, Math.sqrt(view.zoom));
    const layers = colouring.labels.map(() => []);
    cells = new Map();
    for (const i of shown) {
      const [x, y] = place(i), key = `${Math.floor(x / CELL)},${Math.floor(y / CELL)}`;
      layers[first[i]].push(x, y);
      if (!cells.has(key)) cells.set(key, []);
      cells.get(key).push(i, x, y);
    }
    const hues = colours(), order = [...layers.keys()].sort((a, b) => colouring.quiet.includes(b) - colouring.quiet.includes(a));
    for (const category of order) {
      pen.fillStyle = hues[category];
      pen.beginPath();
      for (let at = 0, layer = layers[category]; at < layer.length; at += 2) {
        pen.moveTo(layer[at] + radius, layer[at + 1]);
        pen.arc(layer[at], layer[at + 1], radius, 0, 7);
      }
      pen.fill();
    }
    if (hovered >= 0) ring(radius);
  }

  function ring(radius) {
    pen.strokeStyle = css("--ink");
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(...place(hovered), radius + 3, 0, 7);
    pen.stroke();
  }

  function nearest(px, py) {
    let best = -1, reach = REACH * REACH;
    const column = Math.floor(px / CELL), row = Math.floor(py / CELL);
    for (let c = column - 1; c <= column + 1; c++) {
      for (let r = row - 1; r <= row + 1; r++) {
        const cell = cells.get(`${c},${r}`) ?? [];
        for (let at = 0; at < cell.length; at += 3) {
          const far = (cell[at + 1] - px) ** 2 + (cell[at + 2] - py) ** 2;
          if (far <= reach) [best, reach] = [cell[at], far];
        }
      }
    }
    return best;
  }

  function about(i) {
    const box = element("about");
    if (i !== hovered) redraw();
    hovered = i;
    box.hidden = i < 0;
    if (i < 0) return;
    const lines = [["b", "", `row ${count(data.rows[i])}`]];
    for (const { name, labels, of } of data.colourings) {
      if (name !== "loss") lines.push(["div", "facts", `${name}: ${of[i].map((category) => labels[category]).join(", ")}`]);
    }
    if (data.losses[i] !== null) lines.push(["div", "facts", `loss: ${data.losses[i].toFixed(3)}`]);
    lines.push(["div", "text", data.texts[i]]);
    box.replaceChildren(...lines.map(([tag, kind, text]) => Object.assign(document.createElement(tag), { className: kind, textContent: text })));
    const stage = canvas.getBoundingClientRect(), [x, y] = place(i);
    const left = stage.left + x + 14, top = stage.top + y + 14;
    box.style.left = `${Math.max(4, left + box.offsetWidth > innerWidth ? left - box.offsetWidth - 28 : left)}px`;
    box.style.top = `${Math.max(4, Math.min(top, innerHeight - box.offsetHeight - 4))}px`;
  }

  function legend() {
    const hues = colours(), sizes = colouring.labels.map(() => 0);
    for (const categories of colouring.of) for (const category of categories) sizes[category]++;
    element("legend").replaceChildren(...colouring.labels.map((label, category) => {
      const item = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", on[category]);
      for (const [kind, text] of [["swatch", ""], ["words", label], ["number", count(sizes[category])]]) {
        button.append(Object.assign(document.createElement("span"), { className: kind, textContent: text }));
      }
      button.firstChild.style.background = hues[category];
      button.onclick = () => {
        on[category] = !on[category];
        button.setAttribute("aria-pressed", on[category]);
        filter();
      };
      item.append(button);
      return item;
    }));
  }

  function choose(every = true) {
    colouring = data.colourings.find(({ name }) => name === element("colouring").value);
    on = colouring.labels.map(() => every);
    legend();
    filter();
  }

  function zoom(factor, px, py) {
    const next = Math.min(64, Math.max(1, view.zoom * factor)), by = next / view.zoom;
    view = next === 1 ? { zoom: 1, x: 0, y: 0 } : { zoom: next, x: px - (px - view.x) * by, y: py - (py - view.y) * by };
    about(-1);
    redraw();
  }

  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons & 1 && canvas.hasPointerCapture(event.pointerId)) {
      view = { ...view, x: view.x + event.movementX, y: view.y + event.movementY };
      about(-1);
      redraw();
    } else about(nearest(event.offsetX, event.offsetY));
  });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    about(nearest(event.offsetX, event.offsetY));
  });
  canvas.addEventListener("pointerleave", () => about(-1));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") about(-1);
    if (!step || !shown.length) return;
    event.preventDefault();
    const at = shown.indexOf(hovered);
    about(shown[at < 0 ? (step > 0 ? 0 : shown.length - 1) : (at + step + shown.length) % shown.length]);
  });
  element("search").addEventListener("input", filter);
  element("colouring").addEventListener("change", () => choose());
  element("all").addEventListener("click", () => choose());
  element("none").addEventListener("click", () => choose(false));
  element("reset").addEventListener("click", () => zoom(0));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { legend(); redraw(); });
  new ResizeObserver(redraw).observe(canvas);
  choose();
})();
