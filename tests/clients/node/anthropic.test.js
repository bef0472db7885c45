// Anthropic's official library for Node, which Claude Code is built on.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { connections, createKey, deleteKey, eventually, generating, messages, stage } from "./stage.js";

const timeout = 60_000;
const short = { model: "tiny-a", messages, max_tokens: 24, temperature: 0 };

/** The library with a key in either header; `authToken` is what ANTHROPIC_AUTH_TOKEN sets, as for Claude Code. */
function anthropic(connection, key, header = "x-api-key") {
  const token = key.token ?? key;
  return new Anthropic({
    apiKey: header === "x-api-key" ? token : null,
    authToken: header === "x-api-key" ? null : token,
    baseURL: connection.gateway.url,
    fetch: connection.fetch,
    timeout: 30_000,
    maxRetries: 0,
  });
}

const direct = () => new Anthropic({ apiKey: "none", baseURL: stage.upstreams["tiny-a"] });

for (const connection of connections) {
  describe(`Anthropic's library over ${connection.name}`, { concurrency: 1 }, () => {
    const { gateway } = connection;
    after(() => connection.close());

    for (const header of ["x-api-key", "authorization"]) {
      test(`a message with the key in ${header} is answered as the upstream answers it`, { timeout }, async () => {
        const client = anthropic(connection, await createKey(gateway), header);
        const answer = await client.messages.create(short);
        assert.deepEqual(answer.content, (await direct().messages.create(short)).content);
        // llama.cpp sends no id in a header, so this is the gateway's.
        assert.match(answer._request_id, /^req_/);
      });
    }

    test("a streamed message arrives in pieces", { timeout }, async () => {
      const client = anthropic(connection, await createKey(gateway));
      const whole = await client.messages.create(short);
      const pieces = [];
      for await (const event of client.messages.stream(short)) {
        if (event.type === "content_block_delta") pieces.push(event.delta.text);
      }
      assert.ok(pieces.length > 5);
      assert.equal(pieces.join(""), whole.content[0].text);
    });

    test("tokens are counted", { timeout }, async () => {
      const asked = { model: "tiny-a", messages };
      const client = anthropic(connection, await createKey(gateway));
      assert.deepEqual(await client.messages.countTokens(asked), await direct().messages.countTokens(asked));
    });

    test("the models listed are those that the key may use", { timeout }, async () => {
      const client = anthropic(connection, await createKey(gateway, "--model-access", "inclusive", "--model", "tiny-b"));
      const names = [];
      for await (const model of client.models.list()) names.push([model.type, model.id, model.display_name]);
      assert.deepEqual(names, [["model", "tiny-b", "tiny-b"]]);
      assert.equal((await client.models.retrieve("tiny-b")).id, "tiny-b");
      await assert.rejects(client.models.retrieve("tiny-a"), Anthropic.NotFoundError);
    });

    test("a wrong and an expired key are AuthenticationErrors that say so", { timeout }, async () => {
      for (const header of ["x-api-key", "authorization"]) {
        for (const [token, part] of [["wrong", /key/], [stage.expiredToken, /expired/]]) {
          const client = anthropic(connection, token, header);
          for (const call of [
            () => client.messages.create(short),
            () => client.messages.create({ ...short, stream: true }),
            () => client.messages.countTokens({ model: "tiny-a", messages }),
          ]) {
            await assert.rejects(call, refusal(Anthropic.AuthenticationError, 401, "authentication_error", part));
          }
        }
      }
    });

    test("a model that is not allowed is a NotFoundError", { timeout }, async () => {
      const client = anthropic(connection, await createKey(gateway, "--model-access", "inclusive", "--model", "tiny-b"));
      for (const stream of [false, true]) {
        const call = client.messages.create({ ...short, stream });
        await assert.rejects(call, refusal(Anthropic.NotFoundError, 404, "not_found_error", /model/));
      }
    });

    test("a request without a model is a BadRequestError", { timeout }, async () => {
      const client = anthropic(connection, await createKey(gateway));
      const call = client.messages.create({ messages, max_tokens: 5 });
      await assert.rejects(call, refusal(Anthropic.BadRequestError, 400, "invalid_request_error", /model/));
    });

    test("a stream whose key is deleted throws what the gateway says", { timeout }, async () => {
      await eventually(async () => (await generating("tiny-a")) === 0, "the model is idle", 40_000);
      const key = await createKey(gateway);
      const client = anthropic(connection, key);
      const stream = await client.messages.create({ ...short, max_tokens: 1500, ignore_eos: true, stream: true });
      let deletion;
      await assert.rejects(
        async () => {
          let events = 0;
          for await (const _ of stream) if (++events === 5) deletion = deleteKey(gateway, key);
        },
        (error) => {
          assert.ok(error instanceof Anthropic.APIError, `${error}`);
          assert.equal(error.error.error.type, "authentication_error");
          return true;
        },
      );
      await deletion;
      await eventually(async () => (await generating("tiny-a")) === 0, "llama.cpp stopped generating", 1500);
    });
  });
}

/** Checks a refusal's class, status, type and message, and that it names its request. */
function refusal(kind, status, type, part) {
  return (error) => {
    assert.ok(error instanceof kind, `${error}`);
    assert.equal(error.status, status);
    assert.equal(error.error.type, "error");
    assert.equal(error.error.error.type, type);
    assert.match(error.error.error.message, part);
    assert.ok(error.requestID && error.requestID === error.error.request_id);
    return true;
  };
}
