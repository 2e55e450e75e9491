/**
 * A Node message port as the endpoint that comlink expects of a browser's. Our own, because comlink's adapter for
 * Node has no types under this module resolution.
 */
import type { MessagePort, Worker } from "node:worker_threads";
import type { Endpoint } from "comlink";

type Listener = Parameters<Endpoint["addEventListener"]>[1];

export function endpointOf(port: MessagePort | Worker): Endpoint {
  const known = new WeakMap<Listener, (data: unknown) => void>();
  return {
    postMessage: (message, transfer) => port.postMessage(message, (transfer ?? []) as never[]),
    addEventListener: (_type, listener) => {
      const own = (data: unknown): void => {
        const event = { data } as MessageEvent;
        if (typeof listener === "function") listener(event);
        else listener.handleEvent(event);
      };
      known.set(listener, own);
      port.on("message", own);
    },
    removeEventListener: (_type, listener) => {
      const own = known.get(listener);
      if (own !== undefined) port.off("message", own);
    },
  };
}
