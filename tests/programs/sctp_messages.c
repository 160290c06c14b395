/*
 * A program that knows SCTP, by the calls of lksctp-tools' libsctp (RFC 6458), and nothing of freena.
 *
 *     cc -O2 -o sctp_messages sctp_messages.c -lsctp
 *
 *     sctp_messages serve ADDRESS PORT   sends back each message as it came, until its peer shuts down; prints how many
 *     sctp_messages ask ADDRESS PORT     sends messages, one and many at a time, and expects them back; prints how many
 *     sctp_messages calls ADDRESS PORT   checks options, bounds and errors on a connection to `serve`
 */
#include "sctp_messages.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/sctp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "line %d: not so: %s (%s)\n", __LINE__, #condition, strerror(errno)); \
			exit(1); \
		} \
	} while (0)

static socklen_t address(const char *ip, const char *port, struct sockaddr_storage *to)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)to;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;
	memset(to, 0, sizeof *to);
	if (inet_pton(AF_INET, ip, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)atoi(port));
		return sizeof *v4;
	}
	if (inet_pton(AF_INET6, ip, &v6->sin6_addr) != 1)
		fail("address");
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)atoi(port));
	return sizeof *v6;
}

static int make(int family)
{
	struct sctp_event_subscribe events = { .sctp_data_io_event = 1 };
	struct sctp_initmsg init = { .sinit_num_ostreams = STREAMS_USED, .sinit_max_instreams = STREAMS_USED };
	int on = 1, s = socket(family, SOCK_STREAM, IPPROTO_SCTP);
	if (s < 0)
		fail("socket");
	if (setsockopt(s, IPPROTO_SCTP, SCTP_EVENTS, &events, sizeof events))
		fail("SCTP_EVENTS");
	if (setsockopt(s, IPPROTO_SCTP, SCTP_INITMSG, &init, sizeof init))
		fail("SCTP_INITMSG");
	if (setsockopt(s, IPPROTO_SCTP, SCTP_NODELAY, &on, sizeof on))
		fail("SCTP_NODELAY");
	return s;
}

static int connected(const char *ip, const char *port)
{
	struct sockaddr_storage to;
	socklen_t len = address(ip, port, &to);
	int s = make(to.ss_family);
	if (connect(s, (struct sockaddr *)&to, len))
		fail("connect");
	return s;
}

static void send_message(int s, const struct message *message)
{
	uint32_t flags = message->unordered ? SCTP_UNORDERED : 0;
	int sent = sctp_sendmsg(s, message->bytes, message->length, NULL, 0, message->protocol, flags, message->stream, 0, 0);
	if (sent != (int)message->length)
		fail("sctp_sendmsg");
}

/* One message, by buffers of `room` bytes; 0 at the end. */
static int receive_message(int s, struct message *message, size_t room)
{
	struct sctp_sndrcvinfo info;
	int flags = 0;
	message->length = 0;
	do {
		struct sockaddr_storage from;
		socklen_t from_len = sizeof from;
		size_t left = LONGEST - message->length;
		int got = sctp_recvmsg(s, message->bytes + message->length, left < room ? left : room,
				       (struct sockaddr *)&from, &from_len, &info, &flags);
		if (got < 0)
			fail("sctp_recvmsg");
		if (got == 0)
			return 0;
		message->length += (size_t)got;
	} while (!(flags & MSG_EOR));
	message->stream = info.sinfo_stream;
	message->protocol = info.sinfo_ppid;
	message->unordered = !!(info.sinfo_flags & SCTP_UNORDERED);
	return 1;
}

static int serve(const char *ip, const char *port)
{
	static struct message message;
	struct sockaddr_storage own;
	unsigned echoed = 0;
	address(ip, port, &own);
	int s, listener = make(own.ss_family);
	/* As bind(2), by another name. */
	if (sctp_bindx(listener, (struct sockaddr *)&own, 1, SCTP_BINDX_ADD_ADDR) || listen(listener, 5))
		fail("listen");
	puts("listening");
	fflush(stdout);
	if ((s = accept(listener, NULL, NULL)) < 0)
		fail("accept");
	for (; receive_message(s, &message, LONGEST); echoed++)
		send_message(s, &message);
	printf("%u\n", echoed);
	close(s);
	close(listener);
	return 0;
}

static int ask(int s)
{
	static struct message message;
	for (unsigned number = 0; number < MESSAGES; number++) {
		compose(&message, number);
		send_message(s, &message);
		CHECK(receive_message(s, &message, number % 2 ? 3000 : LONGEST));
		expect(&message, number);
	}
	/* Many under way, on all streams in turn: they come back in their order, as their peer has only one. */
	for (unsigned number = 0; number < MESSAGES; number++) {
		compose(&message, number);
		send_message(s, &message);
	}
	for (unsigned number = 0; number < MESSAGES; number++) {
		CHECK(receive_message(s, &message, 999));
		expect(&message, number);
	}
	CHECK(shutdown(s, SHUT_WR) == 0);
	CHECK(!receive_message(s, &message, LONGEST));
	printf("%d\n", 2 * MESSAGES);
	close(s);
	return 0;
}

static int calls(int s)
{
	static uint8_t large[4 << 20];
	struct sctp_status status;
	struct sockaddr *names;
	socklen_t len = sizeof status;
	int value = 0;
	uint8_t bytes[100];
	struct pollfd ready = { .fd = s, .events = POLLIN | POLLOUT };
	CHECK(getsockopt(s, IPPROTO_SCTP, SCTP_STATUS, &status, &len) == 0 && len == sizeof status);
	CHECK(status.sstat_state == SCTP_ESTABLISHED && status.sstat_outstrms >= STREAMS_USED);
	CHECK(status.sstat_instrms >= STREAMS_USED && status.sstat_primary.spinfo_mtu > 500);
	CHECK(status.sstat_primary.spinfo_address.ss_family == AF_INET);
	CHECK(sctp_getpaddrs(s, 0, &names) == 1 && names->sa_family == AF_INET);
	sctp_freepaddrs(names);
	CHECK(sctp_getladdrs(s, 0, &names) == 1 && names->sa_family == AF_INET);
	sctp_freeladdrs(names);
	len = sizeof value;
	CHECK(getsockopt(s, IPPROTO_SCTP, SCTP_NODELAY, &value, &len) == 0 && value == 1);
	CHECK(getsockopt(s, SOL_SOCKET, SO_PROTOCOL, &value, &len) == 0 && value == IPPROTO_SCTP);
	CHECK(getsockopt(s, SOL_SOCKET, SO_TYPE, &value, &len) == 0 && value == SOCK_STREAM);
	CHECK(setsockopt(s, IPPROTO_SCTP, 9999, &value, sizeof value) < 0 && errno == ENOPROTOOPT);
	/* Messages without bytes, larger than a buffer, on a stream that there is not. */
	CHECK(send(s, bytes, 0, 0) < 0 && errno == EINVAL);
	CHECK(send(s, large, sizeof large, 0) < 0 && errno == EMSGSIZE);
	CHECK(sctp_sendmsg(s, "x", 1, NULL, 0, 0, 0, 65535, 0, 0) < 0 && errno == EINVAL);
	/* Two messages are two, by any call. */
	CHECK(write(s, "first", 5) == 5 && send(s, "second", 6, 0) == 6);
	CHECK(recv(s, bytes, sizeof bytes, MSG_PEEK) == 5);
	CHECK(read(s, bytes, 3) == 3 && !memcmp(bytes, "fir", 3));
	CHECK(recv(s, bytes, sizeof bytes, 0) == 2 && !memcmp(bytes, "st", 2));
	CHECK(recv(s, bytes, sizeof bytes, MSG_WAITALL) == 6 && !memcmp(bytes, "second", 6));
	CHECK(recv(s, bytes, sizeof bytes, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	CHECK(poll(&ready, 1, 0) == 1 && ready.revents == POLLOUT);
	/* SCTP_SNDINFO beside it, and SCTP_RCVINFO. */
	value = 1;
	CHECK(setsockopt(s, IPPROTO_SCTP, SCTP_RECVRCVINFO, &value, sizeof value) == 0);
	struct sctp_sndinfo send_info = { .snd_sid = 7, .snd_ppid = htonl(46) };
	struct iovec vector = { "third", 5 };
	CHECK(sctp_sendv(s, &vector, 1, NULL, 0, &send_info, sizeof send_info, SCTP_SENDV_SNDINFO, 0) == 5);
	struct sctp_rcvinfo receive_info;
	socklen_t info_len = sizeof receive_info;
	unsigned type = 0;
	int flags = 0;
	vector = (struct iovec){ bytes, sizeof bytes };
	struct sockaddr_storage from;
	socklen_t from_len = sizeof from;
	CHECK(sctp_recvv(s, &vector, 1, (struct sockaddr *)&from, &from_len, &receive_info, &info_len, &type, &flags) == 5);
	CHECK(type == SCTP_RECVV_RCVINFO && receive_info.rcv_sid == 7 && receive_info.rcv_ppid == htonl(46));
	CHECK((flags & MSG_EOR) && from.ss_family == AF_INET);
	/* The end, beside nothing. */
	CHECK(sctp_sendmsg(s, NULL, 0, NULL, 0, 0, SCTP_EOF, 0, 0, 0) == 0);
	CHECK(recv(s, bytes, sizeof bytes, 0) == 0);
	CHECK(send(s, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	puts("right");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	if (!strcmp(argv[1], "serve"))
		return serve(argv[2], argv[3]);
	if (!strcmp(argv[1], "ask"))
		return ask(connected(argv[2], argv[3]));
	if (!strcmp(argv[1], "calls"))
		return calls(connected(argv[2], argv[3]));
	return 2;
}
