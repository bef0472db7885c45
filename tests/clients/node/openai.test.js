// The official OpenAI library for Node.
import assert from "node:assert/strict";
import diagnostics from "node:diagnostics_channel";
import { after, describe, test } from "node:test";
import OpenAI from "openai";
import { connections, createKey, deleteKey, endless, eventually, generating, short, stage } from "./stage.js";

const timeout = 60_000;

/** The protocols that TLS agreed on while the tests of one connection ran. */
const agreed = new Set();
diagnostics.subscribe("undici:client:connected", ({ socket }) => agreed.add(socket.alpnProtocol ?? "none"));

for (const connection of connections) {
  describe(`the OpenAI library over ${connection.name}`, { concurrency: 1 }, () => {
    const { gateway } = connection;
    after(() => connection.close());

    test("a chat is answered as the upstream answers it", { timeout }, async () => {
      agreed.clear();
      const client = connection.openai(await createKey(gateway));
      const answer = await client.chat.completions.create({ model: "tiny-a", ...short });
      const upstream = new OpenAI({ apiKey: "none", baseURL: `${stage.upstreams["tiny-a"]}/v1` });
      const direct = await upstream.chat.completions.create({ model: "tiny-a", ...short });
      assert.deepEqual(answer.choices, direct.choices);
      assert.ok(answer._request_id);
      const spoken = { "plain HTTP/1.1": [false, "none"], "TLS HTTP/1.1": ["http/1.1"], "TLS HTTP/2": ["h2"] };
      assert.ok(spoken[connection.name].some((name) => agreed.has(name)), [...agreed].join());
      assert.equal(agreed.has("h2"), connection.name === "TLS HTTP/2");
    });

    test("a streamed chat arrives in pieces", { timeout }, async () => {
      const client = connection.openai(await createKey(gateway));
      const whole = await client.chat.completions.create({ model: "tiny-a", ...short });
      const pieces = [];
      for await (const chunk of await client.chat.completions.create({ model: "tiny-a", stream: true, ...short })) {
        if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
      }
      assert.ok(pieces.length > 10);
      assert.equal(pieces.join(""), whole.choices[0].message.content);
    });

    test("embeddings are served", { timeout }, async () => {
      const client = connection.openai(await createKey(gateway));
      const answer = await client.embeddings.create({ model: "tiny-b", input: ["a key", "a gate"] });
      assert.deepEqual(answer.data.map(({ embedding }) => embedding.length), [576, 576]);
    });

    test("the models listed are those that the key may use", { timeout }, async () => {
      const client = connection.openai(await createKey(gateway, "--model-access", "inclusive", "--model", "tiny-b"));
      const names = [];
      for await (const model of client.models.list()) names.push(model.id);
      assert.deepEqual(names, ["tiny-b"]);
      assert.equal((await client.models.retrieve("tiny-b")).id, "tiny-b");
      await assert.rejects(client.models.retrieve("tiny-a"), refusal(OpenAI.NotFoundError, 404, "model_not_found"));
    });

    test("a model that is not allowed is a NotFoundError", { timeout }, async () => {
      const client = connection.openai(await createKey(gateway, "--model-access", "inclusive", "--model", "tiny-b"));
      for (const stream of [false, true]) {
        const call = client.chat.completions.create({ model: "tiny-a", stream, ...short });
        await assert.rejects(call, refusal(OpenAI.NotFoundError, 404, "model_not_found"));
      }
    });

    test("a wrong, an expired and a misplaced key are AuthenticationErrors", { timeout }, async () => {
      const misplaced = await createKey(gateway, "--allow-from", "192.0.2.0/24");
      for (const [token, code] of [
        ["wrong", "invalid_api_key"],
        [stage.expiredToken, "expired_api_key"],
        [misplaced.token, "ip_not_authorized"],
      ]) {
        const call = connection.openai(token).models.list();
        await assert.rejects(call, refusal(OpenAI.AuthenticationError, 401, code));
      }
    });

    test("a request without a model is a BadRequestError", { timeout }, async () => {
      const client = connection.openai(await createKey(gateway));
      const call = client.chat.completions.create({ ...short });
      await assert.rejects(call, refusal(OpenAI.BadRequestError, 400, "missing_model"));
    });

    test("an error of the upstream passes as it is", { timeout }, async () => {
      const client = connection.openai(await createKey(gateway));
      const call = client.chat.completions.create({ model: "tiny-a", messages: "not a list" });
      await assert.rejects(call, refusal(OpenAI.BadRequestError, 400, 400));
    });

    test("a stream whose key is deleted throws, and its generation stops", { timeout }, async () => {
      await eventually(async () => (await generating("tiny-a")) === 0, "the model is idle", 40_000);
      const key = await createKey(gateway);
      const stream = await connection.openai(key).chat.completions.create({ model: "tiny-a", stream: true, ...endless });
      let deletion;
      await assert.rejects(
        async () => {
          let chunks = 0;
          for await (const _ of stream) {
            // Beside the reading: what is still unread when a connection breaks is lost to this client.
            if (++chunks === 5) deletion = deleteKey(gateway, key).then(() => performance.now());
          }
        },
        (error) => {
          assert.ok(error instanceof OpenAI.APIError, `${error}`);
          assert.equal(error.code, "invalid_api_key");
          return true;
        },
      );
      const thrown = performance.now();
      assert.ok(thrown - (await deletion) < 1000);
      await eventually(async () => (await generating("tiny-a")) === 0, "llama.cpp stopped generating", 1500);
    });

    test("a client that leaves in the middle of a stream stops the generation", { timeout }, async () => {
      await eventually(async () => (await generating("tiny-a")) === 0, "the model is idle", 40_000);
      const client = connection.openai(await createKey(gateway));
      const stream = await client.chat.completions.create({ model: "tiny-a", stream: true, ...endless });
      let chunks = 0;
      for await (const _ of stream) {
        if (++chunks < 5) continue;
        assert.equal(await generating("tiny-a"), 1);
        // Over HTTP/2 this resets the one stream; the connection goes on.
        break;
      }
      await eventually(async () => (await generating("tiny-a")) === 0, "llama.cpp stopped generating", 1500);
      assert.ok((await client.models.list()).data.length > 0);
    });
  });
}

/** Checks a refusal's class, status and code, and that it names its request. */
function refusal(kind, status, code) {
  return (error) => {
    assert.ok(error instanceof kind, `${error}`);
    assert.equal(error.status, status);
    assert.equal(error.code, code);
    assert.ok(error.requestID);
    return true;
  };
}
