// A transport protocol as a library of freena-stack: docs/protocols.md leads from here to a running one.
// Made from stack/plugin/src/abi.rs by `cargo xtask header`.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef FREENA_PROTOCOL_H
#define FREENA_PROTOCOL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// Version of this interface. A library with another one is refused.
#define FREENA_PROTOCOL_ABI 1

// No connection, no listener, no deadline: the largest number of its type.
#define FREENA_NONE UINT32_MAX

// No deadline.
#define FREENA_NEVER UINT64_MAX

// `checksum_offset` of a protocol that does not use the Internet checksum.
#define FREENA_NO_CHECKSUM UINT16_MAX

// Most bytes of a protocol's header, options included.
#define FREENA_MAX_HEADER 60

// The handshake that `connect` began is complete.
#define FREENA_EVENT_CONNECTED 1

// The bytes before `position` have arrived in order and have been stored.
#define FREENA_EVENT_RECEIVED 2

// The peer has the bytes before `position`: they are not needed any more, and their room is given back.
#define FREENA_EVENT_ACKNOWLEDGED 3

// The peer has ended its direction; nothing follows what was received.
#define FREENA_EVENT_PEER_CLOSED 4

// Both directions have ended, and the peer has all that the program had written.
#define FREENA_EVENT_CLOSED 5

// The connection is over by an error.
#define FREENA_EVENT_FAILED 6

// The protocol has forgotten the connection: the number may be given to another one. Must come after `close` or `abort`,
// and never before.
#define FREENA_EVENT_RELEASED 7

// The peer refuses the connection: ECONNREFUSED.
#define FREENA_FAILURE_REFUSED 1

// The peer has reset the connection: ECONNRESET.
#define FREENA_FAILURE_RESET 2

// The peer does not answer: ETIMEDOUT.
#define FREENA_FAILURE_TIMED_OUT 3

// The peer cannot be reached: EHOSTUNREACH.
#define FREENA_FAILURE_UNREACHABLE 4

// The packet was taken: what `handle_packet` returns.
#define FREENA_TAKEN 0

// It was dropped: the header cannot be right.
#define FREENA_DROP_MALFORMED 1

// It was dropped: a checksum of the protocol's own is wrong.
#define FREENA_DROP_CHECKSUM 2

// It was dropped: there is neither connection nor listener.
#define FREENA_DROP_NO_SOCKET 3

// It was dropped: outside the window, or an old duplicate.
#define FREENA_DROP_UNACCEPTABLE 4

// It was dropped: a queue is full.
#define FREENA_DROP_BACKLOG 5

// It was dropped: there is no way back to the peer.
#define FREENA_DROP_NO_PATH 6

// The connection has begun: what `connect` returns.
#define FREENA_CONNECTING 0

// There is a connection with these addresses and ports: EADDRNOTAVAIL.
#define FREENA_CONNECT_IN_USE 1

// No room: ENOBUFS.
#define FREENA_CONNECT_FULL 2

// ICMP: the network cannot be reached.
#define FREENA_ICMP_NETWORK 1

// ICMP: the host cannot be reached.
#define FREENA_ICMP_HOST 2

// ICMP: nobody listens at the port.
#define FREENA_ICMP_PORT 3

// ICMP: the host does not speak the protocol.
#define FREENA_ICMP_PROTOCOL 4

// ICMP: the way is barred.
#define FREENA_ICMP_PROHIBITED 5

// What an engine is made with.
typedef struct FreenaConfig {
  // Size of this structure.
  uint32_t size;
  // Connections are numbered from 0 to this, exclusively: the number may be an index into a table.
  uint32_t max_connections;
  // Random bytes, for initial numbers that nobody else can guess.
  uint8_t secret[32];
} FreenaConfig;

// Socket options. A protocol heeds those that mean something to it.
typedef struct FreenaOptions {
  // TCP_NODELAY: 1 to send small writes at once.
  uint8_t no_delay;
  // TCP_CORK or MSG_MORE: 1 to hold partial packets back, for 200 ms at most.
  uint8_t cork;
  // SO_KEEPALIVE.
  uint8_t keep_alive;
  // TTL or hop limit to send with.
  uint8_t ttl;
  // TOS or traffic class to send with, without the ECN bits.
  uint8_t tos;
  // Always 0.
  uint8_t pad[3];
  // TCP_KEEPIDLE in seconds.
  uint32_t keep_idle;
  // TCP_KEEPINTVL in seconds.
  uint32_t keep_interval;
  // TCP_KEEPCNT.
  uint32_t keep_count;
  // TCP_USER_TIMEOUT in milliseconds, 0 for the protocol's default.
  uint32_t user_timeout;
  // TCP_MAXSEG, 0 for none.
  uint32_t max_segment;
  // SO_RCVBUF: no more than this many bytes may be on their way to the program; 0 for the whole buffer.
  uint32_t receive_buffer;
} FreenaOptions;

// The two ends of a connection, as this host sees them. Addresses are IPv6; IPv4 ones are mapped (::ffff:a.b.c.d). Ports
// are in the host's byte order.
typedef struct FreenaFlow {
  // Own address.
  uint8_t local[16];
  // Peer's address.
  uint8_t peer[16];
  // Own port.
  uint16_t local_port;
  // Peer's port.
  uint16_t peer_port;
} FreenaFlow;

// What the way to a peer carries.
typedef struct FreenaPath {
  // Largest IP packet in bytes.
  uint32_t mtu;
  // What of it is left behind the IP header: protocol header and payload of a packet must fit in.
  uint32_t room;
} FreenaPath;

// A packet of the protocol that has arrived whole and, where the protocol uses the Internet checksum, undamaged.
typedef struct FreenaPacket {
  // From the protocol's header on. Not aligned. Valid during the call.
  const uint8_t *data;
  // Bytes of it.
  uint32_t length;
  // Interface that it came by.
  uint32_t interface;
  // Its source address.
  uint8_t source[16];
  // Its destination address, which is one of this host.
  uint8_t destination[16];
  // TTL or hop limit.
  uint8_t ttl;
  // TOS or traffic class, ECN bits included.
  uint8_t tos;
  // Always 0.
  uint8_t pad[6];
} FreenaPacket;

// What the stack does for a protocol in the middle of `handle_packet` and `poll_transmit`. Valid during the call.
typedef struct FreenaHost {
  // Size of this structure.
  uint32_t size;
  // Always 0.
  uint32_t pad;
  // To be handed to each of the functions.
  void *context;
  // Who listens where `flow` arrives: a number for `accept`, or FREENA_NONE.
  uint32_t (*listener)(void *context, const struct FreenaFlow *flow);
  // The way to the peer. Returns 0, and leaves `path` alone, where there is none.
  uint32_t (*path)(void *context, const struct FreenaFlow *flow, struct FreenaPath *path);
  // A peer's handshake is complete: gives the new connection its number and tells the size of its receive buffer.
  // FREENA_NONE: not now, for the program's queue is full; the peer may try again. `options` may be null.
  uint32_t (*accept)(void *context,
                     uint32_t listener,
                     const struct FreenaFlow *flow,
                     uint64_t *receive_buffer,
                     struct FreenaOptions *options);
  // Keeps bytes that arrived at a position, in order or ahead of it, but not beyond the receive buffer: position plus
  // length is at most what the program has read plus the buffer's size. Returns 0 where they do.
  uint32_t (*store)(void *context,
                    uint32_t connection,
                    uint64_t position,
                    const uint8_t *bytes,
                    uint32_t length);
  // Copies bytes that the program has written and the peer has not acknowledged. Returns 0 where they are not there.
  uint32_t (*load)(void *context,
                   uint32_t connection,
                   uint64_t position,
                   uint8_t *bytes,
                   uint32_t length);
} FreenaHost;

// What has happened to a connection.
typedef struct FreenaEvent {
  // One of FREENA_EVENT_*.
  uint32_t kind;
  // To which.
  uint32_t connection;
  // FREENA_EVENT_RECEIVED, FREENA_EVENT_ACKNOWLEDGED: the position behind the last byte. Must grow.
  uint64_t position;
  // FREENA_EVENT_FAILED: one of FREENA_FAILURE_*.
  uint32_t failure;
  // Always 0.
  uint32_t pad;
} FreenaEvent;

// A packet to send.
typedef struct FreenaTransmit {
  // Whose payload it carries. FREENA_NONE for an answer that belongs to no connection, which carries none.
  uint32_t connection;
  // Bytes used of `header`.
  uint8_t header_length;
  // TTL or hop limit, 0 for 64.
  uint8_t ttl;
  // TOS or traffic class.
  uint8_t tos;
  // Always 0.
  uint8_t pad;
  // From and to. Read for FREENA_NONE only; a connection has the flow that it began with.
  struct FreenaFlow flow;
  // Bytes of payload, 0 for none.
  uint32_t length;
  // Position of the payload in what the program has written.
  uint64_t position;
  // The protocol's header. Where the protocol uses the Internet checksum, its field is filled in later.
  uint8_t header[FREENA_MAX_HEADER];
} FreenaTransmit;

// Figures of a connection, for TCP_INFO and `freena status`. Zero where there is none.
typedef struct FreenaInfo {
  // Smoothed round-trip time in nanoseconds.
  uint64_t round_trip;
  // Its variation in nanoseconds.
  uint64_t variation;
  // Retransmission time-out in nanoseconds.
  uint64_t timeout;
  // Bytes that may be on their way.
  uint64_t congestion_window;
  // Bytes that the peer has room for.
  uint64_t send_window;
  // Bytes on their way.
  uint64_t in_flight;
  // Packets sent again.
  uint64_t retransmitted;
  // Largest payload of a packet.
  uint64_t segment;
} FreenaInfo;

// A protocol. The library exports one as `freena_protocol`:
//
// ```c
// const FreenaProtocol freena_protocol = {
//     .abi = FREENA_PROTOCOL_ABI, .size = sizeof(FreenaProtocol), .name = "example", ...
// };
// ```
//
// Each polling thread has an engine of its own, and calls it from that thread only (it may be made and destroyed by
// another). No function may wait, sleep, read a clock, or start a thread: `now` is the time in nanoseconds from a
// beginning that the engine need not know. Functions marked "may be null" may be left out.
//
// The order of calls: whatever has happened is told (packets, time, what programs have written, read, closed); then
// `poll_events` and `poll_transmit` are called until they return less than there was room for.
typedef struct FreenaProtocol {
  // FREENA_PROTOCOL_ABI.
  uint32_t abi;
  // sizeof(FreenaProtocol).
  uint32_t size;
  // What it is called, in `freena status` and configurations: at most 31 letters, digits, '-' and '_'.
  const char *name;
  // IP protocol number. Those that the stack or the kernel needs are refused (ICMP, IGMP, TCP, UDP, ICMPv6, ...); 253
  // and 254 are for experiments (RFC 3692).
  uint32_t ip_protocol;
  // Offset in the header of the Internet checksum over pseudo-header, header and payload (RFC 9293 section 3.1), which
  // the stack then verifies and fills in; FREENA_NO_CHECKSUM if the protocol does without, or does it itself.
  uint16_t checksum_offset;
  // Always 0.
  uint16_t pad;
  // Makes an engine; null where there is no memory.
  void *(*create)(const struct FreenaConfig *config);
  // Frees an engine and all its connections.
  void (*destroy)(void *engine);
  // A program listens. May be null: the listener of a flow is told by the host in any case.
  void (*listen)(void *engine,
                 uint32_t listener,
                 const uint8_t *local,
                 uint16_t port,
                 const struct FreenaOptions *options);
  // A program does not listen any more. Half-open connections are forgotten, others live on. May be null.
  void (*unlisten)(void *engine, uint32_t listener);
  // A program connects. Returns FREENA_CONNECTING or one of FREENA_CONNECT_*.
  uint32_t (*connect)(void *engine,
                      uint64_t now,
                      uint32_t connection,
                      const struct FreenaFlow *flow,
                      const struct FreenaPath *path,
                      uint64_t receive_buffer,
                      const struct FreenaOptions *options);
  // A packet has arrived. Returns FREENA_TAKEN or one of FREENA_DROP_*.
  uint32_t (*handle_packet)(void *engine,
                            uint64_t now,
                            const struct FreenaPacket *packet,
                            const struct FreenaHost *host);
  // The deadline that `poll_timeout` told has come.
  void (*handle_timeout)(void *engine, uint64_t now);
  // An ICMP error (FREENA_ICMP_*) quotes a packet of ours; its header began with these 8 bytes. May be null.
  void (*handle_icmp)(void *engine,
                      uint64_t now,
                      const struct FreenaFlow *flow,
                      const uint8_t *quoted,
                      uint32_t error);
  // The way to the peer has changed. May be null.
  void (*set_path)(void *engine, uint64_t now, uint32_t connection, const struct FreenaPath *path);
  // Socket options have changed. May be null.
  void (*set_options)(void *engine,
                      uint64_t now,
                      uint32_t connection,
                      const struct FreenaOptions *options);
  // The program has written the bytes before `position`.
  void (*written)(void *engine, uint64_t now, uint32_t connection, uint64_t position);
  // The program has read the bytes before `position`: there is room for more.
  void (*read)(void *engine, uint64_t now, uint32_t connection, uint64_t position);
  // Nothing will follow what the program has written.
  void (*shutdown)(void *engine, uint64_t now, uint32_t connection);
  // The program has closed the connection: what was written is still sent; nothing can be read any more. `unread`: 1
  // where received bytes were not read.
  void (*close)(void *engine, uint64_t now, uint32_t connection, uint32_t unread);
  // The connection ends at once, and the peer is told. As `close`, followed by FREENA_EVENT_RELEASED.
  void (*abort)(void *engine, uint64_t now, uint32_t connection);
  // Writes up to `room` events to `events`; returns how many.
  uint32_t (*poll_events)(void *engine, struct FreenaEvent *events, uint32_t room);
  // Writes up to `room` packets to `packets`; returns how many.
  uint32_t (*poll_transmit)(void *engine,
                            uint64_t now,
                            struct FreenaTransmit *packets,
                            uint32_t room,
                            const struct FreenaHost *host);
  // When `handle_timeout` is to be called, or FREENA_NEVER.
  uint64_t (*poll_timeout)(void *engine);
  // Fills in what is known of a connection. May be null.
  void (*info)(void *engine, uint32_t connection, struct FreenaInfo *info);
} FreenaProtocol;

#endif  /* FREENA_PROTOCOL_H */
