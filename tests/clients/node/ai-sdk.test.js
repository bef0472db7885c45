// Vercel's AI SDK, with its provider for OpenAI-compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embed, generateText, streamText } from "ai";
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { connections, createKey, deleteKey, eventually, generating } from "./stage.js";

const timeout = 60_000;
const prompt = "Name three colours.";

for (const connection of connections) {
  describe(`the AI SDK over ${connection.name}`, { concurrency: 1 }, () => {
    const { gateway } = connection;
    after(() => connection.close());

    const provider = (key, transformRequestBody) =>
      createOpenAICompatible({
        name: "keygate",
        apiKey: key.token ?? key,
        baseURL: connection.baseURL,
        fetch: connection.fetch,
        transformRequestBody,
      });

    test("a text is generated and streamed", { timeout }, async () => {
      const model = provider(await createKey(gateway))("tiny-a");
      const options = { model, prompt, temperature: 0, maxOutputTokens: 24, maxRetries: 0 };
      const { text } = await generateText(options);
      const pieces = [];
      for await (const piece of streamText(options).textStream) pieces.push(piece);
      assert.ok(pieces.length > 10);
      assert.equal(pieces.join(""), text);
    });

    test("a text is embedded", { timeout }, async () => {
      const model = provider(await createKey(gateway)).textEmbeddingModel("tiny-b");
      const { embedding } = await embed({ model, value: "a key", maxRetries: 0 });
      assert.equal(embedding.length, 576);
    });

    test("a model that is not allowed is an APICallError with the gateway's code", { timeout }, async () => {
      const key = await createKey(gateway, "--model-access", "inclusive", "--model", "tiny-b");
      const options = { model: provider(key)("tiny-a"), prompt, maxRetries: 0 };
      const refused = (error) => {
        assert.ok(APICallError.isInstance(error), `${error}`);
        assert.equal(error.statusCode, 404);
        assert.equal(error.isRetryable, false);
        assert.equal(JSON.parse(error.responseBody).error.code, "model_not_found");
        return true;
      };
      await assert.rejects(generateText(options), refused);
      // A stream of this library does not throw: it tells its error aside.
      const errors = [];
      await streamText({ ...options, onError: ({ error }) => errors.push(error) }).consumeStream();
      assert.equal(errors.length, 1);
      refused(errors[0]);
    });

    test("a stream whose key is deleted reports an error, and its generation stops", { timeout }, async () => {
      await eventually(async () => (await generating("tiny-a")) === 0, "the model is idle", 40_000);
      const key = await createKey(gateway);
      const model = provider(key, (body) => ({ ...body, ignore_eos: true }))("tiny-a");
      const errors = [];
      const { textStream } = streamText({
        model,
        prompt,
        maxOutputTokens: 1500,
        maxRetries: 0,
        onError: ({ error }) => errors.push(error),
      });
      let pieces = 0;
      let deletion;
      try {
        for await (const _ of textStream) if (++pieces === 5) deletion = deleteKey(gateway, key);
      } catch (broken) {
        // The connection's end, which comes after the gateway's own word on it.
        errors.push(broken);
      }
      await deletion;
      assert.equal(errors[0]?.code, "invalid_api_key", "the stream ended as if it were whole");
      await eventually(async () => (await generating("tiny-a")) === 0, "llama.cpp stopped generating", 1500);
    });
  });
}
