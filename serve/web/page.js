// The page's three tools: write at the cursor, compare two models, judge a file.

import { complete, getJson, measured, postJson } from "./client.js";
import { histogram } from "./chart.js";
import { sheet, span } from "./sheet.js";

const SAMPLE = 'def area(radius: float) -> float:\n    """The area of a circle."""\n    return \n\n\nprint(area(2))\n';
const GRADES = 5;
const by = (id) => document.getElementById(id);
const models = new Map();

// ---- what all tools share

function trouble(error) {
  by("trouble").hidden = !error;
  by("trouble").textContent = error ? error.message : "";
}

/** Runs a task that can be stopped; a stop is no trouble. */
function stoppable(ask, stop, task) {
  let running = null;
  const end = () => running?.abort();
  const start = async () => {
    end();
    const mine = (running = new AbortController());
    trouble(null);
    stop.disabled = false;
    try {
      await task(mine.signal);
    } catch (error) {
      if (!mine.signal.aborted) trouble(error);
    } finally {
      if (running === mine) [running, stop.disabled] = [null, true];
    }
  };
  ask.addEventListener("click", start);
  stop.addEventListener("click", end);
  return { start, end };
}

function hotkeys(section, keys) {
  section.addEventListener("keydown", (event) => {
    const name = (event.ctrlKey || event.metaKey ? "Ctrl+" : "") + event.key;
    if (keys[name]?.() !== undefined) event.preventDefault();
  });
}

/** What to ask of a model at a text's cursor: between both sides, or on from the end. */
function request(model, it, tokens, temperature) {
  const area = it.area;
  const common = { model, tokens: Number(tokens.value), temperature: Number(temperature.value) };
  if (!models.get(model)?.infill) return { ...common, prompt: area.value };
  const [prompt, suffix] = [area.value.slice(0, area.selectionStart), area.value.slice(area.selectionEnd)];
  return suffix ? { ...common, prompt, suffix } : { ...common, prompt };
}

// ---- write

function writing() {
  const it = sheet(by("write-sheet"));
  const [accept, discard, told] = [by("write-accept"), by("write-discard"), by("write-told")];
  fill(it);
  const offer = (text) => {
    it.suggest(text || null);
    accept.disabled = discard.disabled = !text;
  };
  const drop = () => (it.ghost ? (task.end(), offer(""), (told.textContent = "Discarded."), true) : undefined);
  const take = () => {
    if (!it.ghost) return undefined;
    task.end();
    const text = it.ghost.text;
    offer("");
    it.insert(text);
    told.textContent = "Accepted.";
    return true;
  };
  const task = stoppable(by("write-ask"), by("write-stop"), async (signal) => {
    const model = by("write-model").value;
    if (!models.get(model)?.infill) it.area.setSelectionRange(it.area.value.length, it.area.value.length);
    else it.area.setSelectionRange(it.area.selectionEnd, it.area.selectionEnd);
    it.area.focus();
    offer("");
    told.textContent = "Asking…";
    let text = "";
    try {
      const end = await complete(request(model, it, by("write-tokens"), by("write-temperature")), signal, (piece) => offer((text += piece)));
      told.textContent = text ? `${measured(end)}. Tab accepts, Esc discards.` : "The model wrote nothing here.";
      by("write-said").textContent = text && `Suggestion: ${text}`;
    } catch (error) {
      if (told.textContent === "Asking…") told.textContent = signal.aborted ? "Stopped." : "";
      throw error;
    }
  });
  accept.addEventListener("click", take);
  discard.addEventListener("click", drop);
  it.area.addEventListener("pointerdown", drop);
  it.area.addEventListener("input", () => (task.end(), offer("")));
  hotkeys(by("write"), { "Ctrl+Enter": () => (task.start(), true), "Ctrl+.": () => (task.end(), true), Tab: take, Escape: drop });
  by("write-model").addEventListener("change", tellInfill);
}

function tellInfill() {
  const model = by("write-model").value;
  const able = models.get(model)?.infill;
  by("write-note").hidden = !model || Boolean(able);
  by("write-note").textContent = `${model} was not trained to fill in: it goes on from the end of the text.`;
  by("write-ask").textContent = able ? "Fill in at the cursor" : "Continue at the end";
}

function fill(it) {
  const gap = SAMPLE.indexOf("return ") + "return ".length;
  it.area.value = SAMPLE;
  it.area.setSelectionRange(gap, gap);
  it.show();
}

// ---- compare

function comparing() {
  const it = sheet(by("compare-sheet"));
  fill(it);
  const task = stoppable(by("compare-ask"), by("compare-stop"), (signal) => Promise.all([0, 1].map((k) => side(k, it, signal))));
  hotkeys(by("compare"), { "Ctrl+Enter": () => (task.start(), true), "Ctrl+.": () => (task.end(), true) });
}

async function side(k, it, signal) {
  const [answer, told] = [by(`compare-answer-${k}`), by(`compare-told-${k}`)];
  const asked = request(by(`compare-model-${k}`).value, it, by("compare-tokens"), by("compare-temperature"));
  const written = span("span", "new", "");
  const near = asked.prompt.slice(asked.prompt.lastIndexOf("\n") + 1);
  answer.replaceChildren(span("span", "around", near), written);
  told.textContent = "Asking…";
  try {
    const end = await complete(asked, signal, (piece) => (written.textContent += piece));
    const where = models.get(asked.model)?.infill ? "" : ", at the end of the text: it was not trained to fill in";
    told.textContent = measured(end) + where;
  } catch (error) {
    told.textContent = signal.aborted ? "Stopped." : error.message;
  }
}

// ---- judge

function judging() {
  const it = sheet(by("judge-sheet"));
  const told = by("judge-told");
  let corpus = null;
  const judge = async () => {
    trouble(null);
    told.textContent = "Judging…";
    try {
      const file = { text: it.area.value };
      if (by("judge-language").value) file.language = by("judge-language").value;
      const { data } = await postJson("v1/annotate", { files: [file] });
      told.textContent = `Score ${data[0].score.toFixed(3)}.`;
      verdict(it, { ...data[0], windows: inUnits(file.text, data[0].windows) }, corpus);
    } catch (error) {
      told.textContent = "";
      trouble(error);
    }
  };
  by("judge-ask").addEventListener("click", judge);
  it.area.addEventListener("input", () => (by("judge-result").hidden = true));
  by("judge-file").addEventListener("change", async ({ target }) => {
    it.area.value = (await target.files[0]?.text()) ?? it.area.value;
    it.area.dispatchEvent(new Event("input"));
  });
  hotkeys(by("judge"), { "Ctrl+Enter": () => (judge(), true) });
  getJson("v1/annotator").then((told) => ((corpus = told.scores), introduce(told))).catch((error) => {
    by("judge-who").textContent = error.message;
    by("judge-ask").disabled = true;
  });
}

function introduce({ name, auc, scores }) {
  by("judge-who").textContent = `It is ${name}${auc ? `, ROC-AUC ${auc.toFixed(3)}` : ""}.`;
  for (const language of Object.keys(scores?.languages ?? {})) by("judge-language").add(new Option(language));
}

function verdict(it, found, corpus) {
  by("judge-result").hidden = false;
  by("judge-score").textContent = found.score.toFixed(3);
  by("judge-place").textContent = place(found);
  by("judge-read").textContent = found.truncated
    ? `Read ${found.seen.toLocaleString("en")} characters of ${(found.seen + found.unseen).toLocaleString("en")}; the rest lies between its windows.`
    : "All of it was read.";
  const range = corpus?.range ?? [0, 1];
  it.mark(marks(found.windows, range));
  by("judge-windows").replaceChildren(...found.windows.map((w, k) => row(w, k, it, range)));
  chart(found, corpus);
}

/** The server counts characters, a page UTF-16 units: an emoji is two. */
function inUnits(text, windows) {
  const places = [0];
  for (const character of text) places.push(places.at(-1) + character.length);
  return windows.map((w) => ({ ...w, start: places[w.start], end: places[w.end] }));
}

function place({ percentile, language_percentile: within, language }) {
  if (percentile === null) return "";
  const inside = within === null ? "" : `, ${percent(within)} of those in ${language}`;
  return `better than ${percent(percentile)} of the corpus${inside}`;
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0.99 || share < 0.01 ? 1 : 0)} %`;
}

/** Spans that do not overlap, each graded by the mean of the windows over it. */
function marks(windows, range) {
  const ends = [...new Set(windows.flatMap((w) => [w.start, w.end]))].sort((a, b) => a - b);
  return ends.slice(1).flatMap((end, k) => {
    const over = windows.filter((w) => w.start <= ends[k] && w.end >= end);
    if (!over.length) return [];
    const mean = over.reduce((sum, w) => sum + w.score, 0) / over.length;
    return [{ start: ends[k], end, kind: grade(mean, range) }];
  });
}

function grade(score, [low, high]) {
  return `q${Math.max(0, Math.min(GRADES - 1, Math.floor((GRADES * (score - low)) / (high - low))))}`;
}

function row({ score, start, end }, k, it, range) {
  const line = (at) => it.area.value.slice(0, at).split("\n").length;
  const made = document.createElement("tr");
  const name = document.createElement("td");
  const jump = span("button", "jump", `${k + 1}`);
  jump.setAttribute("aria-label", `Show window ${k + 1}`);
  jump.addEventListener("click", () => it.jump(start));
  name.append(span("span", `swatch ${grade(score, range)}`, ""), jump);
  const rest = [`${line(start)}–${line(Math.max(start, end - 1))}`, score.toFixed(3)].map((words) => span("td", "", words));
  made.append(name, ...rest);
  return made;
}

function chart(found, corpus) {
  const wanted = by("judge-language").value;
  const of = corpus?.languages[wanted] ?? corpus?.all;
  by("judge-corpus").hidden = !of;
  if (!of) return;
  const whose = corpus.languages[wanted] ? `${wanted} files` : "files";
  const label = `Histogram of the scores of ${of.documents.toLocaleString("en")} ${whose} of the corpus; this file has ${found.score.toFixed(3)}`;
  by("judge-chart").replaceChildren(histogram(of.counts, corpus.range, found.score, label));
  by("judge-caption").textContent = `Scores of the corpus's ${of.documents.toLocaleString("en")} ${whose}.`;
}

// ---- tabs and start

function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")];
  const show = (tab) => {
    for (const other of all) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
      by(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
  };
  const choose = (tab) => {
    show(tab);
    tab.focus();
    history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  };
  all.forEach((tab, k) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step) choose(all.at((k + step) % all.length));
    });
  });
  show(all.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? all[0]);
}

async function start() {
  tabs();
  writing();
  comparing();
  judging();
  try {
    const { data } = await getJson("v1/models");
    for (const model of data) models.set(model.id, model);
    for (const id of ["write-model", "compare-model-0", "compare-model-1"]) by(id).replaceChildren(...data.map((m) => new Option(named(m), m.id)));
    by("compare-model-1").value = data.at(-1).id;
    tellInfill();
  } catch (error) {
    trouble(error);
  }
}

function named({ id, phase, step }) {
  return phase ? `${id} (${phase}, step ${step})` : id;
}

start();
