// A bot: takes messages in as they come, answers whole bursts. Run: node bot.js [host:port]
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const protos = fileURLToPath(new URL("../../proto/tidegate/v1/", import.meta.url));
const definition = loader.loadSync(
  [`${protos}buffer_service.proto`, `${protos}delivery_service.proto`],
  { includeDirs: [`${protos}../..`], enums: String, longs: String },
);
const { BufferService, DeliveryService } = grpc.loadPackageDefinition(definition).tidegate.v1;

const target = process.argv[2] ?? "127.0.0.1:7460";
const retries = { "grpc.service_config": readFileSync(`${protos}service_config.json`, "utf8") };
const buffer = new BufferService(target, grpc.credentials.createInsecure(), retries);
const delivery = new DeliveryService(target, grpc.credentials.createInsecure(), retries);

const call = (client, method, request, seconds) =>
  new Promise((resolve, reject) => {
    const deadline = Date.now() + seconds * 1000;
    client[method](request, { deadline }, (error, response) =>
      error ? reject(error) : resolve(response));
  });

const answer = (user, texts) => console.log(`${user} wrote: ${texts.join(" / ")}`);

// What the webhook does with each message. The id makes a repeated webhook harmless.
async function onMessage(user, id, text) {
  const request = { instance: "bot", conversation: user, message: { id, text } };
  const added = await call(buffer, "AddMessage", request, 1);
  if (added.fallbackToImmediate) answer(user, [text]);
}

async function onBatch({ info, messages, leaseToken }) {
  answer(info.conversation.conversation, messages.map(({ message }) => message.text));
  await call(delivery, "AckBatch", { batchId: info.batchId, leaseToken }, 5);
}

// A stream that ends is opened again; what was leased on it comes back by itself.
function subscribe(handle) {
  const stream = delivery.Subscribe({ subscriberId: `node-${process.pid}`, instances: ["bot"] });
  stream.on("data", ({ batch }) => batch && handle(batch).catch(console.error));
  stream.on("error", (error) => console.error(error.message));
  stream.on("close", () => setTimeout(() => subscribe(handle), 1000));
}

for (const text of ["Hello", "I ordered a bike", "Where is it?"]) {
  await onMessage("ann", randomUUID(), text);
}
subscribe(async (batch) => {
  await onBatch(batch);
  process.exit(); // a bot goes on
});
