/* The conversation of sctp_messages.c and usrsctp_peer.c: messages of known length, stream, payload protocol and content. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGES = 60, LONGEST = 40000, STREAMS_USED = 10 };

struct message {
	uint16_t stream;
	uint32_t protocol;
	int unordered;
	size_t length;
	uint8_t bytes[LONGEST];
};

/* Message number `number`: of one packet, of several, of a byte. */
static void compose(struct message *message, unsigned number)
{
	message->stream = (uint16_t)(number % STREAMS_USED);
	message->protocol = htonl(1000 + number);
	message->unordered = number % 7 == 3;
	message->length = 1 + (size_t)number * number * 5303 % LONGEST;
	for (size_t at = 0; at < message->length; at++)
		message->bytes[at] = (uint8_t)((number * 31 + at) * 0x9e3779b1u >> 24);
}

/* Ends the program if this is not message `number`, label and all. */
static void expect(const struct message *got, unsigned number)
{
	static struct message expected;
	compose(&expected, number);
	if (got->length != expected.length || memcmp(got->bytes, expected.bytes, got->length) ||
	    got->stream != expected.stream || got->protocol != expected.protocol ||
	    got->unordered != expected.unordered) {
		fprintf(stderr, "message %u: %zu bytes on stream %u, protocol %u, %sordered; expected %zu, %u, %u\n", number,
			got->length, got->stream, ntohl(got->protocol), got->unordered ? "un" : "", expected.length,
			expected.stream, ntohl(expected.protocol));
		exit(1);
	}
}
