// The server's protocol: one request, its pieces as they come.

/** An error with the server's code, or "network" where no answer came. */
export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const headers = (key) => ({ "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) });

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("network", error.message);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(body?.error?.code ?? `HTTP ${response.status}`, body?.error?.message ?? `HTTP ${response.status}`);
}

/** Return the model that the server has: {id, window in tokens, longest_message in bytes, defaults}. */
export async function readModel(key) {
  const response = await send("v1/models", { headers: headers(key) });
  return (await response.json()).data[0];
}

/** Yield what the reply consists of: {piece} many times, then {reason}, then {usage}. */
export async function* streamReply(body, key, signal) {
  const options = { stream: true, stream_options: { include_usage: true } };
  const response = await send("v1/chat/completions", {
    method: "POST", headers: headers(key), signal, body: JSON.stringify({ ...body, ...options }),
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("network", error.message);
    }
    if (part.done) throw new ApiError("network", "the reply broke off");
    text += part.value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.code, chunk.error.message);
      const [choice] = chunk.choices;
      if (choice?.delta?.content) yield { piece: choice.delta.content };
      if (choice?.finish_reason) yield { reason: choice.stop_reason ?? choice.finish_reason };
      if (chunk.usage) yield { usage: chunk.usage };
    }
  }
}
