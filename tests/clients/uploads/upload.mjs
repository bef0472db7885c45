// Sends a body of BYTES with Node's own fetch, and prints the status: `node upload.mjs URL TOKEN BYTES`.
const [url, token, bytes] = process.argv.slice(2);
const answer = await fetch(url, {
  method: "POST",
  headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
  body: new Uint8Array(Number(bytes)).fill(0x20),
});
await answer.text();
console.log(answer.status);
