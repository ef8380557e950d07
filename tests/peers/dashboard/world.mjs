// A proxy with two services, origins behind them, and traffic.

import { spawn } from "node:child_process";
import { chmodSync, openSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { until } from "./webdriver.mjs";

export const TOKEN = "open-sesame";
const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });

/** An origin whose share of failing requests can be set. */
async function origin() {
  const one = { failing: 0, delay: 2 };
  let number = 0;
  const server = http.createServer((request, response) => {
    number += 1;
    const fails = request.url !== "/ready" && Math.floor((number + 1) * one.failing) > Math.floor(number * one.failing);
    setTimeout(() => {
      response.writeHead(fails ? 500 : 200, { "content-type": "text/plain" });
      response.end("ok");
    }, one.delay + (number % 7));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  one.address = `127.0.0.1:${server.address().port}`;
  one.close = () => {
    server.closeAllConnections();
    server.close();
  };
  return one;
}

/** Asks the admin API on a connection of its own, which no keep-alive timeout closes in between. */
function ask(url, { method = "GET", body } = {}) {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${TOKEN}` };
    const request = http.request(url, { method, agent: false, headers }, async (answer) => {
      let text = "";
      for await (const part of answer) text += part;
      if (answer.statusCode === 200) resolve(text);
      else reject(new Error(`${url}: ${answer.statusCode} ${text}`));
    });
    request.on("error", reject);
    request.end(body && JSON.stringify(body));
  });
}

/** A free port, for a proxy that is started again at the same address. */
export async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export async function world(binary, directory, { steps, others = 1 }) {
  const origins = { v1: await origin(), v2: await origin(), plain: await origin() };
  const [traffic, admin, exposed] = [await freePort(), await freePort(), await freePort()];
  const file = `${directory}/cutover.toml`;
  writeFileSync(`${directory}/token`, TOKEN);
  chmodSync(`${directory}/token`, 0o600);
  const plain = Array.from({ length: others }, (_, at) => `
[service.plain-${at}]
hosts = ["plain-${at}.example.com"]
stable = "v1"
versions.v1 = ["${origins.plain.address}"]
versions.v2 = ["${origins.plain.address}"]
`);
  writeFileSync(file, `
listen    = "127.0.0.1:${traffic}"
state_dir = "${directory}/state"
[admin]
listen     = ["127.0.0.1:${admin}", "0.0.0.0:${exposed}"]
token_file = "${directory}/token"
[service.shop]
hosts  = ["shop.example.com"]
stable = "v1"
split  = { v2 = "0%" }
[service.shop.versions.v1]
label     = "1.4.1"
endpoints = ["${origins.v1.address}"]
[service.shop.versions.v2]
label     = "1.5.0"
endpoints = ["${origins.v2.address}"]
[service.shop.rollout]
steps = ${JSON.stringify(steps)}
[service.shop.rollout.guard]
errors     = ["1%", "x1.5"]
confidence = "99%"
${plain.join("")}`);

  const here = { origins, file, admin: `http://127.0.0.1:${admin}`, exposed: `http://127.0.0.1:${exposed}`, rate: 300, path: () => "/cart", host: () => "shop.example.com" };
  const log = openSync(`${directory}/log`, "a");
  let child = null;
  here.start = async () => {
    child = spawn(binary, ["run", "-c", file], { stdio: ["ignore", log, log] });
    await until("the proxy is ready", () => ask(`${here.admin}/readyz`).catch(() => false));
  };
  here.stop = async () => {
    if (child.exitCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  };
  here.status = async (name = "shop") => {
    const status = JSON.parse(await ask(`${here.admin}/api/v1/status`));
    return status.services.find((service) => service.name === name);
  };
  here.get = async (path) => JSON.parse(await ask(`${here.admin}/api/v1/${path}`));
  here.post = async (path, body) => JSON.parse(await ask(`${here.admin}/api/v1/${path}`, { method: "POST", body }));
  const beat = setInterval(() => {
    for (let n = 0; n < here.rate / 50; n++) {
      const request = http.get({ port: traffic, path: here.path(), agent, headers: { host: here.host() } }, (answer) => answer.resume());
      // While the proxy is restarted nobody answers.
      request.on("error", () => {});
    }
  }, 20);
  here.close = async () => {
    clearInterval(beat);
    await here.stop();
    agent.destroy();
    for (const one of Object.values(origins)) one.close();
  };
  await here.start();
  return here;
}
