// A page and a WebSocket that echoes, behind the proxy; the browser uses both.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { browser, until } from "../dashboard/webdriver.mjs";
import { freePort } from "../dashboard/world.mjs";

const [, , binary, directory] = process.argv;
const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** Sends each frame of a client back, unmasked; a close ends the connection. */
function echo(socket) {
  let input = Buffer.alloc(0);
  socket.on("error", () => {});
  socket.on("data", (data) => {
    input = Buffer.concat([input, data]);
    for (;;) {
      if (input.length < 2) return;
      let [length, at] = [input[1] & 0x7f, 2];
      if (input.length < 10 && length > 125) return;
      if (length === 126) [length, at] = [input.readUInt16BE(2), 4];
      else if (length === 127) [length, at] = [Number(input.readBigUInt64BE(2)), 10];
      if (input.length < at + 4 + length) return;
      const head = Buffer.from(input.subarray(0, at));
      head[1] &= 0x7f;
      const mask = input.subarray(at, at + 4);
      const payload = input.subarray(at + 4, at + 4 + length).map((byte, n) => byte ^ mask[n % 4]);
      input = input.subarray(at + 4 + length);
      socket.write(Buffer.concat([head, payload]));
      if ((head[0] & 0x0f) === 8) socket.end();
    }
  });
}

const origin = http.createServer((_, response) => {
  response.writeHead(200, { "content-type": "text/html" });
  response.end("<!doctype html><title>page</title><link rel=icon href='data:,'>ready");
});
origin.on("upgrade", (request, socket) => {
  const accept = createHash("sha1").update(request.headers["sec-websocket-key"] + GUID).digest("base64");
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ${accept}\r\nsec-websocket-protocol: chat\r\n\r\n`);
  echo(socket);
});
await new Promise((resolve) => origin.listen(0, "127.0.0.1", resolve));

const port = await freePort();
const file = `${directory}/cutover.toml`;
const log = `${directory}/access.log`;
writeFileSync(file, `admin = "127.0.0.1:${await freePort()}"
[listen.https]
bind = "127.0.0.1:${port}"
[[listen.https.cert]]
cert = "${directory}/cert.pem"
key = "${directory}/key.pem"
[access_log]
to = "${log}"
[service.app]
versions = { v1 = ["127.0.0.1:${origin.address().port}"] }
`);
const proxy = spawn(binary, ["run", "-c", file], { stdio: ["ignore", "ignore", "inherit"] });
let page = null;
try {
  page = await browser({ acceptsAnyCertificate: true });
  await until("the proxy listens", () => new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1", () => resolve(socket.end()));
    socket.on("error", () => resolve(false));
  }));
  await page.open(`https://localhost:${port}/`);
  await page.shows("ready");
  const got = await page.runAsync(`
    const done = arguments[0];
    const socket = new WebSocket("wss://" + location.host + "/chat", "chat");
    const large = "x".repeat(1 << 20);
    let lengths = [];
    socket.onopen = () => { socket.send("hello"); socket.send(large); };
    socket.onmessage = ({ data }) => {
      lengths.push(data === "hello" || data === large ? data.length : "wrong");
      if (lengths.length === 2) socket.close(1000);
    };
    socket.onclose = ({ code, wasClean }) => done({ lengths, code, wasClean, protocol: socket.protocol });`);
  // In the order in which WebDriver returns the keys.
  const expected = { code: 1000, lengths: [5, 1 << 20], protocol: "chat", wasClean: true };
  if (JSON.stringify(got) !== JSON.stringify(expected)) throw new Error(`the page got ${JSON.stringify(got)}`);
  const line = await until("a line of the tunnel", () => {
    const lines = readFileSync(log, "utf8").split("\n").filter(Boolean).map((text) => JSON.parse(text));
    return lines.find((one) => one.tunnel);
  });
  if (!/2/.test(line.protocol) || line.status !== 200) throw new Error(`the tunnel was ${JSON.stringify(line)}`);
  console.log(`a WebSocket over ${line.protocol}: ${line.bytes_received} bytes up, ${line.bytes_sent} bytes down`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await page?.close();
  proxy.kill();
  origin.closeAllConnections();
  origin.close();
}
process.exit();
