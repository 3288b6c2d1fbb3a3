// A histogram of the corpus's scores as SVG, with one score's place in it.

const WIDE = 480, HIGH = 170, FOOT = 22, TOP = 22;
const SVG = "http://www.w3.org/2000/svg";

export function histogram(counts, [low, high], score, label) {
  const most = Math.max(1, ...counts);
  const chart = node("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label });
  const wide = WIDE / counts.length;
  counts.forEach((count, k) => chart.append(bar(count / most, k, wide)));
  chart.append(node("line", { x1: 0, x2: WIDE, y1: HIGH - FOOT, y2: HIGH - FOOT, class: "axis" }));
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]])
    chart.append(text(short(low + share * (high - low)), share * WIDE, HIGH - 7, anchor));
  const share = Math.min(1, Math.max(0, (score - low) / (high - low)));
  chart.append(...here(share));
  return chart;
}

function bar(share, k, wide) {
  const height = share && Math.max(1, share * (HIGH - FOOT - TOP));
  return node("rect", { x: k * wide + 0.5, y: HIGH - FOOT - height, width: wide - 1, height, class: "bar-of" });
}

function here(share) {
  const x = Math.min(WIDE - 1, Math.max(1, share * WIDE));
  const anchor = share < 0.15 ? "start" : share > 0.85 ? "end" : "middle";
  return [node("line", { x1: x, x2: x, y1: TOP - 6, y2: HIGH - FOOT, class: "here" }), text("this file", x, 11, anchor, "here-name")];
}

function text(words, x, y, anchor, kind = "") {
  const made = node("text", { x, y, "text-anchor": anchor, class: kind });
  made.textContent = words;
  return made;
}

function short(number) {
  return String(Number(number.toPrecision(3)));
}

function node(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
