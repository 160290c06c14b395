// A service that breaks the interface in the way that FAULT says.

#include "freena_service.h"

#include <stdlib.h>

enum { LONGER = 1, OUTSIDE, NO_HANDLE, PROMISE, INFLATES, ANNOUNCES, FAILS, WRONG_ABI, WRONG_SIZE, NO_INBOUND, TABLE, NAME };

static uint32_t service_open(FreenaServiceSetup *setup, void **instance, FreenaServiceText *why) {
    (void)why;
    setup->promise.outbound = setup->promise.inbound = FREENA_SERVICE_IN_PLACE;
    setup->promise.tail = FAULT == PROMISE ? UINT32_MAX : 4;
    *instance = FAULT == NO_HANDLE ? NULL : malloc(1);
    return FREENA_SERVICE_OK;
}

static void service_close(void *instance) {
    free(instance);
}

static size_t announce(void *instance, uint8_t *out, size_t capacity) {
    (void)instance, (void)out;
    return FAULT == ANNOUNCES ? capacity + 1 : 0;
}

static uint32_t outbound(void *instance, FreenaServiceMessage *message) {
    (void)instance;
    if (message->kind == FREENA_SERVICE_DATA) {
        switch (FAULT) {
        case LONGER:
            message->length += 5;
            break;
        case OUTSIDE:
            message->start = SIZE_MAX - 2;
            break;
        case FAILS:
            return FREENA_SERVICE_FAULT;
        }
    }
    return FREENA_SERVICE_OK;
}

static uint32_t inbound(void *instance, FreenaServiceMessage *message) {
    (void)instance;
    if (FAULT == INFLATES && message->kind == FREENA_SERVICE_DATA) {
        message->length += 1;
    }
    return FREENA_SERVICE_OK;
}

static const FreenaServiceParameter parameters[] = {{.name = "x", .meaning = "x", .preset = "9", .kind = FREENA_SERVICE_NUMBER, .maximum = 8}};

const FreenaService freena_service = {
    .abi = FREENA_SERVICE_ABI + (FAULT == WRONG_ABI),
    .size = sizeof(FreenaService) - (FAULT == WRONG_SIZE),
    .name = FAULT == NAME ? "Not A Name" : "faulty",
    .about = "Breaks the interface.",
    .version = 1,
    .kinds = FREENA_SERVICE_STREAM,
    .parameters = parameters,
    .parameter_count = FAULT == TABLE,
    .open = service_open,
    .close = service_close,
    .announce = announce,
    .outbound = outbound,
    .inbound = FAULT == NO_INBOUND ? 0 : inbound,
};
