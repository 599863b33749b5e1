"use strict";
(() => {
  const audio = document.querySelector("audio");
  const timeline = document.querySelector(".timeline");
  if (!audio || !timeline) return;
  const drawing = timeline.querySelector("svg");
  const head = timeline.querySelector(".head");
  const follow = document.querySelector("#follow");
  const scale = Number(drawing.dataset.scale); // units of the drawing per second
  const edge = Number(drawing.dataset.edge); // where second 0 stands in it
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const lines = [...document.querySelectorAll(".line[data-from]")].map((element) => ({
    element, from: Number(element.dataset.from), to: Number(element.dataset.to), on: false,
  }));

  const show = () => {
    const now = audio.currentTime;
    let first = null;
    for (const line of lines) {
      const on = line.from - 0.02 <= now && now < line.to;
      if (on !== line.on) {
        line.on = on;
        if (on) { line.element.setAttribute("aria-current", "true"); first = first || line.element; }
        else line.element.removeAttribute("aria-current");
      }
    }
    if (first && follow.checked && !audio.paused) first.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
    const x = edge + now * scale;
    head.setAttribute("x1", x);
    head.setAttribute("x2", x);
    const width = drawing.getBoundingClientRect().width, shown = timeline.clientWidth;
    if (width > shown + 1 && !audio.paused) {
      const at = (x / drawing.viewBox.baseVal.width) * width;
      if (at < timeline.scrollLeft + 40 || at > timeline.scrollLeft + shown - 80) timeline.scrollLeft = at - shown / 4;
    }
  };
  const tick = () => {
    show();
    if (!audio.paused) requestAnimationFrame(tick);
  };
  const seek = (seconds) => {
    audio.currentTime = Math.max(0, Math.min(seconds, Number.isFinite(audio.duration) ? audio.duration : seconds));
  };
  const start = () => { const started = audio.play(); if (started) started.catch(() => {}); };

  for (const name of ["timeupdate", "seeking", "seeked", "pause", "loadedmetadata"]) audio.addEventListener(name, show);
  audio.addEventListener("play", tick);
  for (const line of lines) line.element.addEventListener("click", () => { seek(line.from); start(); });
  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    seek(((event.clientX - box.left) / box.width * drawing.viewBox.baseVal.width - edge) / scale);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const at = event.target instanceof Element ? event.target : document.body;
    if (at.closest("audio, input, summary, a")) return;
    if (event.key === " " && !at.closest("button")) { event.preventDefault(); if (audio.paused) start(); else audio.pause(); }
    if (event.key === "ArrowLeft") { event.preventDefault(); seek(audio.currentTime - 5); }
    if (event.key === "ArrowRight") { event.preventDefault(); seek(audio.currentTime + 5); }
  });
  show();
})();
