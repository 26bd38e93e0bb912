// What the vendor's page tells an Express application to do: check the timestamp, then the HMAC of the raw body in constant
// time, then a map of the ids that have been there, then the handler, here one that does nothing.

import { createHmac, timingSafeEqual } from "node:crypto";
import express from "express";

const secret = process.env.SENDARIX_WEBHOOK_SECRET;
const TOLERANCE_MS = 5 * 60 * 1000;
const handled = new Map();

function isSigned(body, signature) {
  const expected = createHmac("sha256", secret).update(body).digest("hex");
  return signature?.length === expected.length && timingSafeEqual(Buffer.from(signature), Buffer.from(expected));
}

const app = express();
app.post("/", express.raw({ type: "application/json" }), (request, response) => {
  const sentAt = Number.parseInt(request.get("x-sendarix-timestamp"), 10) * 1000;
  if (!(Math.abs(Date.now() - sentAt) <= TOLERANCE_MS)) return response.status(401).send("stale");
  if (!isSigned(request.body, request.get("x-sendarix-signature"))) return response.status(401).send("unsigned");
  const event = JSON.parse(request.body);
  if (handled.has(event.event_id)) return response.status(200).send("OK");
  handled.set(event.event_id, true);
  response.status(200).send("OK");
});

const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
