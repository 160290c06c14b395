// A service as a library that freena inserts into programs' flows: docs/services.md.
// Made from services/api/src/abi.rs by `cargo xtask header`.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef FREENA_SERVICE_H
#define FREENA_SERVICE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// Version of this interface. A library with another one is refused.
#define FREENA_SERVICE_ABI 1

// No deadline.
#define FREENA_SERVICE_NEVER UINT64_MAX

// A flow of bytes: the service gets it in chunks, and the peer's service gets the same chunks in the same order.
#define FREENA_SERVICE_STREAM 1

// A flow of datagrams: any of them may be lost, arrive twice, or overtake others.
#define FREENA_SERVICE_DATAGRAM 2

// This end opened the flow.
#define FREENA_SERVICE_CLIENT 1

// This end was reached by the flow.
#define FREENA_SERVICE_SERVER 2

// The bytes are only looked at.
#define FREENA_SERVICE_LOOK 0

// The message is changed where it stands, with room before and behind it as promised.
#define FREENA_SERVICE_IN_PLACE 1

// The message is read in one place and written anew in another.
#define FREENA_SERVICE_REWRITE 2

// Go on: what every function returns when all is well.
#define FREENA_SERVICE_OK 0

// There is nothing to pass on. Of `outbound` and `inbound`: the service has kept the message, or it was for the service alone.
#define FREENA_SERVICE_NOTHING 1

// Of `handshake`: one more message of the peer is needed.
#define FREENA_SERVICE_MORE 2

// The message is not what the peer has sent, or was made with another key.
#define FREENA_SERVICE_FORGED 16

// The message has been seen before, or is too old to tell.
#define FREENA_SERVICE_REPLAYED 17

// The message cannot have been made by the peer's service of that name.
#define FREENA_SERVICE_MALFORMED 18

// The peer has another key, or none that is known here.
#define FREENA_SERVICE_KEY 19

// The peer's settings do not go with those of this end.
#define FREENA_SERVICE_MISMATCH 20

// A parameter is wrong, or what it names cannot be used.
#define FREENA_SERVICE_PARAMETER 21

// The service has failed. It is not called again for this flow but to close it.
#define FREENA_SERVICE_FAULT 22

// What of a flow a message is. Services that authenticate must cover it, so that nobody can make one of the other.
#define FREENA_SERVICE_DATA 1

// The end of the direction, an empty message.
#define FREENA_SERVICE_END 2

// The first message after the agreement, empty: that it is undamaged proves that the peer has the key.
#define FREENA_SERVICE_CONFIRM 3

// A message of the framework itself.
#define FREENA_SERVICE_CONTROL 4

// A number from `minimum` to `maximum`.
#define FREENA_SERVICE_NUMBER 1

// `true` or `false`.
#define FREENA_SERVICE_BOOLEAN 2

// One of `choices`; upper and lower case are one.
#define FREENA_SERVICE_CHOICE 3

// The absolute path of a file.
#define FREENA_SERVICE_FILE 4

// Text of at most `maximum` bytes.
#define FREENA_SERVICE_TEXT 5

// A parameter that the service takes. Strings end with 0 and are in UTF-8.
typedef struct FreenaServiceParameter {
  // Its name: lower case letters, digits, `_` and `-`.
  const char *name;
  // What it means, in one sentence or a few.
  const char *meaning;
  // Unit of a number, or null.
  const char *unit;
  // Value where none is given; null if one must be given.
  const char *preset;
  // Of FREENA_SERVICE_CHOICE: the values with `|` between them, else null.
  const char *choices;
  // One of FREENA_SERVICE_NUMBER and the others.
  uint32_t kind;
  // 1 if both ends must have the same value: else they do not agree.
  uint32_t agreed;
  // Least value of a number.
  int64_t minimum;
  // Greatest value of a number, or most bytes of a text.
  int64_t maximum;
} FreenaServiceParameter;

// A parameter's value for a flow.
typedef struct FreenaServiceValue {
  // The parameter's name.
  const char *name;
  // Its value, which has been checked against the table.
  const char *value;
} FreenaServiceValue;

// The flow. Addresses are IPv6; IPv4 ones are mapped (::ffff:a.b.c.d). Ports are in the host's byte order.
typedef struct FreenaServiceFlow {
  // FREENA_SERVICE_STREAM or FREENA_SERVICE_DATAGRAM.
  uint32_t kind;
  // FREENA_SERVICE_CLIENT or FREENA_SERVICE_SERVER.
  uint32_t role;
  // IP protocol number of the transport.
  uint32_t transport;
  // Own port, 0 where it is not known.
  uint16_t local_port;
  // Peer's port, 0 where it is not known.
  uint16_t peer_port;
  // Own address.
  uint8_t local[16];
  // Peer's address.
  uint8_t peer[16];
} FreenaServiceFlow;

// What the service promises of a flow, before the first message. It is held to it.
typedef struct FreenaServicePromise {
  // FREENA_SERVICE_LOOK, _IN_PLACE or _REWRITE: how `outbound` works.
  uint32_t outbound;
  // The same for `inbound`.
  uint32_t inbound;
  // Most bytes by which `outbound` makes a message longer at its beginning.
  uint32_t head;
  // Most bytes by which `outbound` makes a message longer at its end; with _REWRITE, longer at all.
  uint32_t tail;
  // Most bytes that `inbound` makes of one message, 0 for "no more than the message has".
  uint32_t inflated;
  // Differentiated services code point to send with (0 to 63), or UINT32_MAX to leave it as it is.
  uint32_t dscp;
  // SO_PRIORITY to send with (0 to 6), or UINT32_MAX to leave it as it is.
  uint32_t priority;
  // Most bytes a second that the transport is to be paced at (SO_MAX_PACING_RATE), 0 for no bound.
  uint32_t pacing;
} FreenaServicePromise;

// What a flow is opened with.
typedef struct FreenaServiceSetup {
  // Size of this structure.
  uint32_t size;
  // Number of values: one for each parameter of the table that has a value or a preset.
  uint32_t value_count;
  // The values, in the order of the table. Valid during the call.
  const struct FreenaServiceValue *values;
  // The flow.
  struct FreenaServiceFlow flow;
  // Nanoseconds on a clock that never goes back.
  uint64_t now;
  // Seconds since 1970, for what must be compared between hosts.
  uint64_t wall;
  // To be filled in: what the service promises.
  struct FreenaServicePromise promise;
} FreenaServiceSetup;

// Room for a reason in words.
typedef struct FreenaServiceText {
  // Where to write it, without a 0 at the end.
  char *text;
  // Bytes that there is room for.
  size_t capacity;
  // Bytes written.
  size_t length;
} FreenaServiceText;

// What both ends have told each other. Both have the same; only the order of own and peer's differs.
typedef struct FreenaServiceAgreement {
  // Size of this structure.
  uint32_t size;
  // Bytes of the peer's announcement.
  uint32_t announcement_length;
  // What the peer's service of this name has announced. Valid during the call.
  const uint8_t *announcement;
  // Random bytes of this end, fresh for each flow.
  uint8_t own_nonce[32];
  // Random bytes of the peer.
  uint8_t peer_nonce[32];
  // SHA-256 of all that both ends have announced, the client's first. Keys derived from it are of this flow only.
  uint8_t transcript[32];
} FreenaServiceAgreement;

// A message on its way through the service.
typedef struct FreenaServiceMessage {
  // FREENA_SERVICE_DATA and others.
  uint32_t kind;
  // To be set to 1 if `extra_outbound` (of `outbound`) or `extra_inbound` (of `inbound`) has something now.
  uint32_t extra;
  // Nanoseconds on the clock of the set-up.
  uint64_t now;
  // _LOOK and _REWRITE: the message. Null with _IN_PLACE.
  const uint8_t *input;
  // Bytes of it.
  size_t input_length;
  // _IN_PLACE: memory that holds the message, and _REWRITE: memory for the result. Null with _LOOK.
  uint8_t *memory;
  // Bytes of `memory`.
  size_t capacity;
  // Where in `memory` the message begins. With _REWRITE, where the result is to begin. To be set by the service, not by
  // more than what it has promised.
  size_t start;
  // Bytes of the message in `memory`. To be set by the service.
  size_t length;
} FreenaServiceMessage;

// A figure of a flow.
typedef struct FreenaServiceStatistic {
  // Its name, a string of the library that lives on.
  const char *name;
  // Its value.
  uint64_t value;
} FreenaServiceStatistic;

// A service: what the symbol `freena_service` of the library is. All functions of one flow are called by one thread at a
// time, but not always by the same.
typedef struct FreenaService {
  // FREENA_SERVICE_ABI.
  uint32_t abi;
  // Size of this structure.
  uint32_t size;
  // Its name: 1 to 31 lower case letters, digits, `-` and `_`. Both ends must use the same.
  const char *name;
  // What it does, in one sentence.
  const char *about;
  // Version of what goes over the wire. Both ends must have the same.
  uint32_t version;
  // FREENA_SERVICE_STREAM and FREENA_SERVICE_DATAGRAM, added up: the flows that it can be inserted into.
  uint32_t kinds;
  // Its parameters.
  const struct FreenaServiceParameter *parameters;
  // Number of parameters, at most 64.
  uint32_t parameter_count;
  // Always 0.
  uint32_t pad;
  // Begins a flow: puts a handle into `instance`, and fills in the promise.
  uint32_t (*open)(struct FreenaServiceSetup *setup, void **instance, struct FreenaServiceText *why);
  // Ends a flow.
  void (*close)(void *instance);
  // Writes what the peer's service is to know before the first message, at most `capacity` bytes, and returns how many.
  // May be null.
  size_t (*announce)(void *instance, uint8_t *out, size_t capacity);
  // Tells what the peer has announced. FREENA_SERVICE_OK, _KEY or _MISMATCH. May be null. Not called for datagrams, whose
  // peer may never have heard of this end: a service for datagrams puts what the peer must know into each of them.
  uint32_t (*agree)(void *instance,
                    const struct FreenaServiceAgreement *agreement,
                    struct FreenaServiceText *why);
  // Further messages before the flow can begin, of streams only. The client is called first, without a message; then each
  // end with what the other has written to `out`. FREENA_SERVICE_OK when this end needs no more, _MORE, or what went
  // wrong. May be null.
  uint32_t (*handshake)(void *instance,
                        const uint8_t *input,
                        size_t input_length,
                        uint8_t *out,
                        size_t capacity,
                        size_t *length,
                        struct FreenaServiceText *why);
  // A message on its way to the peer.
  uint32_t (*outbound)(void *instance, struct FreenaServiceMessage *message);
  // A message on its way from the peer. Anything but FREENA_SERVICE_OK and _NOTHING ends a stream; a datagram is dropped,
  // and counted.
  uint32_t (*inbound)(void *instance, struct FreenaServiceMessage *message);
  // When a message of `length` bytes may go: 0 or a time that has passed for now. May be null.
  uint64_t (*admit)(void *instance, uint64_t now, size_t length);
  // A message of the service's own to the peer, or one that it had kept: as `outbound` with _REWRITE, without input.
  // FREENA_SERVICE_NOTHING if there is none. May be null.
  uint32_t (*extra_outbound)(void *instance, struct FreenaServiceMessage *message);
  // A message for the program that has not arrived as such, or one that the service had kept. May be null.
  uint32_t (*extra_inbound)(void *instance, struct FreenaServiceMessage *message);
  // When `timer` is to be called, or FREENA_SERVICE_NEVER. May be null.
  uint64_t (*deadline)(void *instance);
  // The deadline has passed. `extra_outbound` and `extra_inbound` are asked afterwards. May be null.
  void (*timer)(void *instance, uint64_t now);
  // Fills in at most `capacity` figures, and returns how many. May be null.
  size_t (*statistics)(void *instance, struct FreenaServiceStatistic *out, size_t capacity);
} FreenaService;

#endif  /* FREENA_SERVICE_H */
