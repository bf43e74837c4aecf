// BullMQ as its users use it: adds, adds in bulk, debounced adds, and how late delayed jobs begin.
// A child of the benchmark: makes itself ready and says so, waits for a line, works, prints JSON.
import { Queue, Worker } from "bullmq";
import Redis from "ioredis";
import { createInterface } from "node:readline";

const [job, given] = process.argv.slice(2);
const options = JSON.parse(given);
const payload = { text: "x".repeat(200) };
const connection = () => new Redis(options.socket, { maxRetriesPerRequest: null });
const queue = new Queue(options.name, { connection: connection() });
const lines = createInterface({ input: process.stdin });

async function go() {
  console.log("ready");
  await new Promise((resolve) => lines.once("line", resolve));
  const [cpu, began] = [process.cpuUsage(), performance.now()];
  return () => {
    const { user, system } = process.cpuUsage(cpu);
    return (user + system) / 1000 / (performance.now() - began);
  };
}

// Keeps `inFlight` calls under way for so many seconds; how many were answered.
async function closed(inFlight, seconds, call) {
  const ends = performance.now() + seconds * 1000;
  let count = 0, n = 0;
  await Promise.all(Array.from({ length: inFlight }, async () => {
    while (performance.now() < ends) count += await call(n++);
  }));
  return count;
}

const calls = {
  add: async () => { await queue.add("message", payload); return 1; },
  bulk: async () => {
    const jobs = Array.from({ length: options.bulk }, () => ({ name: "message", data: payload }));
    await queue.addBulk(jobs);
    return options.bulk;
  },
  debounce: async (n) => {
    const deduplication = { id: `chat-${n % 5000}`, ttl: 3_600_000, extend: true, replace: true };
    await queue.add("message", payload, { delay: 3_600_000, deduplication });
    return 1;
  },
};

async function rate() {
  await closed(options.in_flight, Math.min(0.5, options.seconds), calls[job]);
  const busy = await go();
  const began = performance.now();
  const count = await closed(options.in_flight, options.seconds, calls[job]);
  return { count, seconds: (performance.now() - began) / 1000, busy: busy() };
}

// Jobs whose delays end evenly from `first_s` to `last_s`: how late a worker begins with each, in ms.
async function lateness() {
  const late = [];
  const worker = new Worker(options.name, async ({ data }) => { late.push(Date.now() - data.due); },
    { connection: connection(), concurrency: 100 });
  await worker.waitUntilReady();
  const busy = await go();
  const { count, first_s, last_s } = options;
  const began = Date.now();
  for (let at = 0; at < count; at += 100) {
    await queue.addBulk(Array.from({ length: Math.min(100, count - at) }, (_, k) => {
      const due = Math.round(began + 1000 * (first_s + (last_s - first_s) * (at + k) / count));
      return { name: "message", data: { ...payload, due }, opts: { delay: Math.max(0, due - Date.now()) } };
    }));
  }
  while (late.length < count) await new Promise((resolve) => setTimeout(resolve, 20));
  await worker.close();
  late.sort((a, b) => a - b);
  const place = (share) => late[Math.min(late.length - 1, Math.floor(share * late.length))];
  return { p50: place(0.5), p99: place(0.99), max: late.at(-1), late, busy: busy() };
}

console.log(JSON.stringify(await (job === "lateness" ? lateness() : rate())));
process.exit(0);
