// A text that is edited in a textarea and seen in the <pre> below it, where parts of it can have a
// colour and a suggestion can stand between them. Both have one size; their frame scrolls.

export function sheet(frame) {
  const [seen, area] = frame.children;
  const it = { area, ghost: null, marks: [] };
  it.show = () => seen.replaceChildren(...layers(it), "\n");
  it.suggest = (text) => {
    it.ghost = text === null ? null : { at: area.selectionStart, text };
    it.show();
  };
  it.mark = (marks) => {
    it.marks = marks;
    it.show();
  };
  it.insert = (text) => insert(it, text);
  it.jump = (start) => {
    area.focus({ preventScroll: true });
    area.setSelectionRange(start, start);
    seen.querySelector(`[data-start="${start}"]`)?.scrollIntoView({ block: "center", inline: "nearest" });
  };
  area.addEventListener("input", () => {
    [it.ghost, it.marks] = [null, []];
    it.show();
  });
  it.show();
  return it;
}

/** Puts text at the cursor so that the browser's own undo takes it back. */
function insert(it, text) {
  it.ghost = null;
  it.area.focus();
  if (!document.execCommand("insertText", false, text)) {
    it.area.setRangeText(text, it.area.selectionStart, it.area.selectionEnd, "end");
    it.area.dispatchEvent(new Event("input"));
  }
}

function layers({ area, ghost, marks }) {
  if (ghost) return [area.value.slice(0, ghost.at), span("span", "ghost", ghost.text), area.value.slice(ghost.at)];
  const parts = [];
  let at = 0;
  for (const { start, end, kind } of marks) {
    const mark = span("mark", kind, area.value.slice(start, end));
    mark.dataset.start = start;
    parts.push(area.value.slice(at, start), mark);
    at = end;
  }
  return [...parts, area.value.slice(at)];
}

export function span(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}
