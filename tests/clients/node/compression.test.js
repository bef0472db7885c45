// Node's own fetch with compressed bodies: whole ones, and streams of unknown length.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from "node:zlib";
import { connections, createKey, short } from "./stage.js";

const timeout = 60_000;
const codings = [
  ["gzip", gzipSync],
  ["deflate", deflateSync],
  ["deflate", deflateRawSync],
  ["br", brotliCompressSync],
];

for (const connection of connections) {
  describe(`compressed bodies over ${connection.name}`, { concurrency: 1 }, () => {
    after(() => connection.close());

    const ask = (key, body, more = {}) =>
      connection.fetch(`${connection.baseURL}/chat/completions`, {
        method: "POST",
        body,
        duplex: "half",
        headers: { authorization: `Bearer ${key.token}`, "content-type": "application/json", ...more },
      });

    test("are answered like plain ones", { timeout }, async () => {
      const key = await createKey(connection.gateway, "--model-access", "inclusive", "--model", "tiny-a");
      const body = JSON.stringify({ model: "tiny-a", ...short, max_tokens: 4 });
      const { choices } = await (await ask(key, body)).json();
      assert.ok(choices[0].message.content);
      for (const [coding, compress] of codings) {
        const answer = await ask(key, compress(body), { "content-encoding": coding });
        assert.equal(answer.status, 200, coding);
        assert.deepEqual((await answer.json()).choices, choices, coding);
      }
      for (const [coding, format] of [["gzip", "gzip"], ["deflate", "deflate"], ["deflate", "deflate-raw"]]) {
        const stream = new Blob([body]).stream().pipeThrough(new CompressionStream(format));
        const answer = await ask(key, stream, { "content-encoding": coding });
        assert.equal(answer.status, 200, format);
        assert.deepEqual((await answer.json()).choices, choices, format);
      }
    });

    test("hide no model from a restricted key", { timeout }, async () => {
      const key = await createKey(connection.gateway, "--model-access", "inclusive", "--model", "tiny-b");
      const body = JSON.stringify({ model: "tiny-a", ...short });
      for (const [coding, compress] of codings) {
        const answer = await ask(key, compress(body), { "content-encoding": coding });
        assert.equal(answer.status, 404, coding);
        assert.equal((await answer.json()).error.code, "model_not_found");
      }
    });
  });
}
