// What the pages ask the server: JSON by `ask`, a file by `upload`, an answer piece by piece by `answer`.

export class Failure extends Error {}

export async function ask(path, method = "GET", body = undefined) {
  const response = await fetch(path, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!response.ok) throw new Failure(await sentence(response));
  return response.status === 204 ? null : response.json();
}

// A file's bytes under a name: as the data of tasks, or to another place.
export async function upload(name, content, place = "/api/datasets") {
  const response = await fetch(`${place}?name=${encodeURIComponent(name)}`, { method: "POST", body: content });
  if (!response.ok) throw new Failure(await sentence(response));
  return response.json();
}

// Yields the chunks of /v1/chat/completions; ending `signal` ends the request on the server too.
export async function* answer(body, signal) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.ok) throw new Failure(await sentence(response));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (waiting + value).split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const chunk = JSON.parse(event.slice(6));
      if (chunk.error) throw new Failure(chunk.error.message);
      yield chunk;
    }
  }
}

async function sentence(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}
