/**
 * Layout of the store's ring page and its messages: xen/include/public/io/xs_wire.h. Offsets are bytes,
 * little endian. Indexes are free-running 32-bit numbers, masked with XENSTORE_RING_SIZE - 1; they need not
 * start at 0. Data before the producer's update; data read before the consumer's update; then signal.
 */
export const XENSTORE_RING_SIZE = 1024;
export const XENSTORE_REQ = 0; // [GST] bytes from the client
export const XENSTORE_RSP = 1024; // [XS] bytes from the daemon
export const XENSTORE_REQ_CONS = 2048; // u32 [XS]
export const XENSTORE_REQ_PROD = 2052; // u32 [GST]
export const XENSTORE_RSP_CONS = 2056; // u32 [GST]
export const XENSTORE_RSP_PROD = 2060; // u32 [XS]
export const XENSTORE_SERVER_FEATURES = 2064; // u32 [XS] bits
export const XENSTORE_CONNECTION = 2068; // u32 both: 0 connected, 1 reconnect asked for
export const XENSTORE_ERROR = 2072; // u32 [XS] XENSTORE_ERROR_*

export const XENSTORE_SERVER_FEATURE_ERROR = 2;
export const XENSTORE_CONNECTED = 0;
export const XENSTORE_RECONNECT = 1;
export const XENSTORE_ERROR_NONE = 0;
export const XENSTORE_ERROR_COMM = 1;
export const XENSTORE_ERROR_RINGIDX = 2;
export const XENSTORE_ERROR_PROTO = 3;

/** struct xsd_sockmsg: type, req_id, tx_id, len, u32 each; then `len` bytes of payload. */
export const XSD_HEADER_SIZE = 16;
export const XSD_TYPE = 0;
export const XSD_REQ_ID = 4;
export const XSD_TX_ID = 8;
export const XSD_LEN = 12;
/** Longest payload; a longer one ends the connection. */
export const XENSTORE_PAYLOAD_MAX = 4096;
export const XENSTORE_ABS_PATH_MAX = 3072;
export const XENSTORE_REL_PATH_MAX = 2048;

export const XS_CONTROL = 0;
export const XS_DIRECTORY = 1;
export const XS_READ = 2;
export const XS_GET_PERMS = 3;
export const XS_WATCH = 4;
export const XS_UNWATCH = 5;
export const XS_TRANSACTION_START = 6;
export const XS_TRANSACTION_END = 7;
export const XS_INTRODUCE = 8;
export const XS_RELEASE = 9;
export const XS_GET_DOMAIN_PATH = 10;
export const XS_WRITE = 11;
export const XS_MKDIR = 12;
export const XS_RM = 13;
export const XS_SET_PERMS = 14;
export const XS_WATCH_EVENT = 15;
export const XS_ERROR = 16;
export const XS_IS_DOMAIN_INTRODUCED = 17;

/** enum xenbus_state of xen/include/public/io/xenbus.h. */
export const XenbusStateUnknown = 0;
export const XenbusStateInitialising = 1;
export const XenbusStateInitWait = 2;
export const XenbusStateInitialised = 3;
export const XenbusStateConnected = 4;
export const XenbusStateClosing = 5;
export const XenbusStateClosed = 6;
export const XenbusStateReconfiguring = 7;
export const XenbusStateReconfigured = 8;
