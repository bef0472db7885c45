// Uploads a file for transcription, each client as its users write it, and prints the status:
// `node upload-form.mjs CLIENT URL TOKEN FILE`.
import assert from "node:assert/strict";
import { createReadStream, openAsBlob, readFileSync } from "node:fs";
import path from "node:path";
import axios from "axios";
import FormData_ from "form-data";
import { FormData as FormDataNode, File as FileOfFormDataNode } from "formdata-node";
import got from "got";
import Groq from "groq-sdk";
import OpenAI from "openai";
import OpenAI4 from "openai4";

const [client, baseURL, token, file] = process.argv.slice(2);
const url = `${baseURL}/audio/transcriptions`;
const headers = { authorization: `Bearer ${token}` };
const fields = { model: "whisper-1", language: "de" };
const settings = { apiKey: token, baseURL, maxRetries: 0, timeout: 20_000 };

async function filled(form) {
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", new File([await openAsBlob(file)], path.basename(file), { type: "audio/wav" }));
  return form;
}

// The official libraries throw where they are refused.
const library = async (made) => {
  const { data, response } = await made.audio.transcriptions.create({ ...fields, file: createReadStream(file) }).withResponse();
  assert.equal(data.text, "Guten Tag.");
  return response.status;
};

const clients = {
  openai: () => library(new OpenAI(settings)),
  openai4: () => library(new OpenAI4(settings)),
  // It adds the path `/openai/v1` itself, which a custom server has not, and sends a stream, for which Node's fetch wants
  // to be told that no answer is read meanwhile.
  groq: async () => {
    const strip = (address, init) => fetch(`${address}`.replace("/openai/v1/", "/v1/"), { ...init, duplex: "half" });
    return library(new Groq({ ...settings, baseURL: baseURL.replace(/\/v1$/, ""), fetch: strip }));
  },
  fetch: async () => (await fetch(url, { method: "POST", headers, body: await filled(new FormData()) })).status,
  got: async () => (await got.post(url, { headers, body: await filled(new FormData()), retry: { limit: 0 } })).statusCode,
  "formdata-node": async () => {
    const form = new FormDataNode();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append("file", new FileOfFormDataNode([readFileSync(file)], path.basename(file), { type: "audio/wav" }));
    return (await got.post(url, { headers, body: form, retry: { limit: 0 } })).statusCode;
  },
  axios: async () => (await axios.post(url, await filled(new FormData()), { headers })).status,
  "form-data": async () => {
    const form = new FormData_();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append("file", createReadStream(file));
    return (await axios.post(url, form, { headers: { ...headers, ...form.getHeaders() } })).status;
  },
};

console.log(await clients[client]());
