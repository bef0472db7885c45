// What servers on Node read in a request: Express's routes and query, JSON.parse, express.json, and the forms of
// multer, busboy, formidable and undici. Prints `listening HOST:PORT`, and answers every request with what was read in it.

import { Readable, Writable } from "node:stream";
import busboy from "busboy";
import express from "express";
import formidable from "formidable";
import multer from "multer";
import { Response } from "undici";

const JSON_ROUTES = process.argv[2].split(",");
const FORM_ROUTES = process.argv[3].split(",");

// A model as it is told: text as it is, nothing as null, anything else so that it equals no name.
const told = (model) => (typeof model === "string" ? model : model == null ? null : `not text: ${JSON.stringify(model)}`);

// Several fields are as wrong as another one: which counts is anybody's guess.
const only = (models) => (models.length > 1 ? `several: ${JSON.stringify(models)}` : told(models[0]));

// The request once more, for a reader of streams.
function again(request) {
  const stream = Readable.from([request.body]);
  stream.headers = { ...request.headers, "content-length": String(request.body.length) };
  delete stream.headers["transfer-encoding"];
  stream.method = request.method;
  stream.url = request.url;
  return stream;
}

function through(middleware, request) {
  const stream = again(request);
  return new Promise((resolve, reject) => middleware(stream, {}, (error) => (error ? reject(error) : resolve(stream))));
}

const jsonReaders = {
  "JSON.parse": (request) => told(JSON.parse(request.body.toString("utf8"))?.model),
  "express.json": async (request) => told((await through(express.json({ limit: "50mb" }), request)).body?.model),
};

const formReaders = {
  multer: async (request) => {
    const { body, files } = await through(multer({ storage: multer.memoryStorage() }).any(), request);
    const models = [body?.model].flat().filter((model) => model !== undefined);
    return only([...models, ...(files ?? []).filter((file) => file.fieldname === "model")]);
  },
  busboy: (request) =>
    new Promise((resolve, reject) => {
      const models = [];
      const form = busboy({ headers: request.headers });
      form.on("field", (name, value) => name === "model" && models.push(value));
      form.on("file", (name, stream) => {
        if (name === "model") models.push({ file: name });
        stream.resume();
      });
      form.on("error", reject);
      form.on("close", () => resolve(only(models)));
      again(request).pipe(form);
    }),
  formidable: (request) => (turn = turn.catch(() => {}).then(() => throughFormidable(request))),
  undici: async (request) => {
    const response = new Response(request.body, { headers: { "content-type": request.headers["content-type"] } });
    return only((await response.formData()).getAll("model"));
  },
};

class Sink extends Writable {
  _write(chunk, encoding, done) {
    done();
  }
}

// formidable throws where nobody can catch it, at a Content-Transfer-Encoding that it does not know. So one at a time,
// and what nobody caught meanwhile is its refusal.
let turn = Promise.resolve();
async function throughFormidable(request) {
  const models = [];
  const form = formidable({ allowEmptyFiles: true, minFileSize: 0, fileWriteStreamHandler: () => new Sink() });
  form.on("field", (name, value) => name === "model" && models.push(value));
  // It takes whatever has a type for a file, also plain text, as some clients type their fields: those it cannot serve.
  form.on("fileBegin", (name) => name === "model" && form.emit("error", new Error("the model is a file")));
  let fail;
  const failed = new Promise((_, reject) => (fail = reject));
  process.once("uncaughtException", fail);
  try {
    await Promise.race([form.parse(again(request)), failed]);
  } finally {
    process.off("uncaughtException", fail);
  }
  return only(models);
}

async function read(readers, request) {
  const readings = {};
  for (const [name, reader] of Object.entries(readers)) {
    try {
      readings[name] = await reader(request);
    } catch (error) {
      readings[name] = { refused: String(error?.message ?? error) };
    }
  }
  return readings;
}

const app = express();
// As Express 4 reads queries, and many servers still: names with brackets make lists and objects.
app.set("query parser", "extended");
app.use(express.raw({ type: () => true, limit: "50mb", inflate: false }));
const served = (route, readers) =>
  app.post(route, async (request, response) => {
    const search = new URL(request.url, "http://localhost").searchParams;
    const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
    request.body = body;
    response.json({
      served: route,
      query: { express: told(request.query.model), URLSearchParams: told(search.get("model")) },
      body: await read(readers, request),
    });
  });
for (const route of JSON_ROUTES) served(route, jsonReaders);
for (const route of FORM_ROUTES) served(route, formReaders);
app.use((request, response) => response.status(404).json({ served: null }));

const server = app.listen(0, "127.0.0.1", () => console.log(`listening 127.0.0.1:${server.address().port}`));
server.keepAliveTimeout = 60_000;
// The parent's end of standard input closes when the parent ends, whatever ends it.
process.stdin.on("end", () => process.exit(0)).resume();
