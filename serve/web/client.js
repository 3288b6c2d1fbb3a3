// Asks the server: JSON, and streams of server-sent events. A refusal becomes an Error with its text.

export async function getJson(path) {
  return (await checked(await fetch(path))).json();
}

export async function postJson(path, body, signal) {
  return (await checked(await send(path, body, signal))).json();
}

/** Each event's data of a stream, as it comes, up to [DONE]; an error in it is thrown. */
export async function* postStream(path, body, signal) {
  const answer = await checked(await send(path, body, signal));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The stream broke off.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new Error(told.error.message);
      yield told;
    }
  }
}

/** Streams one completion: tell(text) at each piece; gives the tokens, seconds to the first, and per second. */
export async function complete({ model, prompt, suffix, tokens, temperature }, signal, tell) {
  const body = { model, prompt, max_tokens: tokens, temperature, stream: true, stream_options: { include_usage: true } };
  if (suffix !== undefined) body.suffix = suffix;
  const start = performance.now();
  const seen = { pieces: 0, tokens: null, first: null, reason: null };
  for await (const event of postStream("v1/completions", body, signal)) {
    if (event.usage) seen.tokens = event.usage.completion_tokens;
    const choice = event.choices[0];
    if (!choice) continue;
    if (choice.finish_reason) seen.reason = choice.finish_reason;
    if (!choice.text) continue;
    seen.first ??= performance.now() - start;
    seen.pieces += 1;
    tell(choice.text);
  }
  return { ...seen, total: performance.now() - start };
}

/** A finished completion in words. */
export function measured({ tokens, first, total, reason }) {
  const parts = [`${tokens ?? "?"} tokens`];
  if (first !== null) parts.push(`first after ${seconds(first)}`);
  if (tokens > 1 && total > first) parts.push(`${((tokens - 1) / ((total - first) / 1000)).toFixed(1)} tokens/s`);
  if (reason === "length") parts.push("ended at the limit");
  return parts.join(", ");
}

function seconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function send(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function checked(answer) {
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new Error(told?.error?.message ?? `The server answered ${answer.status}.`);
}
