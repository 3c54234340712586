// Requests to the server that this page came from.

const TRIES = 4;

/** The result as an object. Throws an Error whose message is for people. */
export async function call(path, body, signal) {
  for (let attempt = 1; ; attempt++) {
    let answer;
    try {
      answer = await fetch(path, body === undefined ? { signal } : {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is `isthmus serve` still running?");
    }
    if (answer.ok) return answer.json();
    if (answer.status === 503 && attempt < TRIES) {
      await new Promise((done) => setTimeout(done, 1000 * Number(answer.headers.get("Retry-After") ?? 1)));
      continue;
    }
    throw new Error(await message(answer));
  }
}

async function message(answer) {
  if (answer.status === 401) return "This page needs its token: open the address that `isthmus serve` printed.";
  if (answer.status === 413) return "This picture is too large: at most 18 MB.";
  const told = await answer.json().catch(() => null);
  return sentence(told?.error?.message ?? `The server answered ${answer.status}.`);
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
