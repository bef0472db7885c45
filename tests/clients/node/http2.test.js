// Node's own HTTP/2 client, without a library in between: one connection with many streams.
import assert from "node:assert/strict";
import http2 from "node:http2";
import { after, before, describe, test } from "node:test";
import { authority, createKey, deleteKey, endless, eventually, generating, short, stage } from "./stage.js";

const timeout = 60_000;

/** The first event of this name; an error is an event like others, and the end without it a failure. */
function once(emitter, name) {
  return new Promise((resolve, reject) => {
    emitter.once(name, (...values) => resolve(values));
    if (name !== "error") emitter.once("error", reject);
    emitter.once("close", () => reject(new Error(`closed without ${name}`)));
  });
}

for (const [name, gateway] of [
  ["TLS", stage.tls],
  ["prior knowledge", stage.plain],
]) {
  describe(`one HTTP/2 connection by ${name}`, { concurrency: 1 }, () => {
    let session;
    // Not earlier: the gateway hangs up on connections that say nothing for long.
    before(() => { session = http2.connect(gateway.url, { ca: authority }); });
    after(() => session.destroy());

    /** Sends a chat; answers with its stream. */
    function chat(key, body) {
      const stream = session.request({
        ":method": "POST",
        ":path": "/v1/chat/completions",
        authorization: `Bearer ${key.token}`,
        "content-type": "application/json",
      });
      stream.setEncoding("utf8");
      stream.end(JSON.stringify({ model: "tiny-a", ...body }));
      return stream;
    }

    async function read(stream) {
      const [head] = await once(stream, "response");
      let text = "";
      for await (const piece of stream) text += piece;
      return { status: head[":status"], body: JSON.parse(text) };
    }

    test("requests side by side each get their own answer", { timeout }, async () => {
      const allowed = await createKey(gateway);
      const denied = await createKey(gateway, "--model-access", "exclusive", "--model", "tiny-a");
      const answers = await Promise.all([allowed, denied, allowed, denied].map((key) => read(chat(key, short))));
      assert.deepEqual(answers.map(({ status }) => status), [200, 404, 200, 404]);
      assert.equal(answers[1].body.error.code, "model_not_found");
      assert.ok(answers[2].body.choices[0].message.content);
    });

    test("a revoked stream is told why and reset, and the connection goes on", { timeout }, async () => {
      await eventually(async () => (await generating("tiny-a")) === 0, "the model is idle", 40_000);
      const key = await createKey(gateway);
      const stream = chat(key, { ...endless, stream: true });
      let text = "";
      let deletion;
      stream.on("data", (piece) => {
        text += piece;
        if (text.length > 2000) deletion ??= deleteKey(gateway, key).then(() => performance.now());
      });
      const [error] = await once(stream, "error");
      const broken = performance.now();
      assert.equal(error.code, "ERR_HTTP2_STREAM_ERROR");
      assert.ok(broken - (await deletion) < 1000);
      const events = text.split("\n\n").filter(Boolean);
      assert.equal(JSON.parse(events.at(-1).replace("data: ", "")).error.code, "invalid_api_key");
      await eventually(async () => (await generating("tiny-a")) === 0, "llama.cpp stopped generating", 1500);
      assert.equal((await read(chat(await createKey(gateway), short))).status, 200);
    });

    test("a stream that the client resets stops its generation, and the connection goes on", { timeout }, async () => {
      await eventually(async () => (await generating("tiny-a")) === 0, "the model is idle", 40_000);
      const key = await createKey(gateway);
      const stream = chat(key, { ...endless, stream: true });
      await once(stream, "data");
      assert.equal(await generating("tiny-a"), 1);
      stream.close(http2.constants.NGHTTP2_CANCEL);
      await eventually(async () => (await generating("tiny-a")) === 0, "llama.cpp stopped generating", 1500);
      assert.equal((await read(chat(key, short))).status, 200);
    });
  });
}
