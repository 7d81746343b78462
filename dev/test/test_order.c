// test_order.c: the order of instances, its saved state, and the state as JSON.
#include "llmc/order.h"

#include "check.h"

enum { N = 23, BATCH = 5 };

// An epoch is the shuffle of PCG64(seed + epoch) without the rest that fills no batch.
static void test_shuffled(void) {
    Order o;
    Error err = {""};
    if (!CHECK(order_create(&o, N, BATCH, true, 6198, &err))) { return; }
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        uint32_t numbers[N];
        Pcg64 rng;
        for (uint32_t i = 0; i < N; i++) { numbers[i] = i; }
        pcg64_seed(&rng, 6198 + epoch);
        pcg64_shuffle(&rng, numbers, N);
        for (size_t i = 0; i < N / BATCH * BATCH; i++) {
            CHECK(order_next(&o) == numbers[i]);
            CHECK(o.state.epoch == epoch && o.state.position == i + 1);
        }
    }
    order_free(&o);
}

static void test_unshuffled(void) {
    Order o;
    Error err = {""};
    if (!CHECK(order_create(&o, N, BATCH, false, 6198, &err))) { return; }
    for (size_t i = 0; i < 3 * (N / BATCH * BATCH); i++) { CHECK(order_next(&o) == i % (N / BATCH * BATCH)); }
    order_free(&o);
}

// From every place of three epochs another order, of another seed, goes on with the same instances.
static void test_restore(void) {
    enum { STEPS = 60 };
    size_t expected[STEPS + 1];
    OrderState states[STEPS + 1];
    Order o, other;
    Error err = {""};
    if (!CHECK(order_create(&o, N, BATCH, true, 7, &err) && order_create(&other, N, BATCH, true, 8, &err))) {
        return;
    }
    for (size_t i = 0; i <= STEPS; i++) {
        states[i] = o.state;
        expected[i] = order_next(&o);
    }
    for (size_t i = 0; i < STEPS; i++) {
        CHECK(order_restore(&other, &states[i], "x", &err));
        CHECK(order_next(&other) == expected[i] && order_next(&other) == expected[i + 1]);
        order_continue(&other, &states[i]);
        CHECK(order_next(&other) == expected[i]);
    }
    const OrderState before = other.state;
    OrderState wrong = states[7];
    wrong.instances = N + 1;
    CHECK_ERROR(order_restore(&other, &wrong, "a.npy", &err), err,
                "a.npy: the saved run was at instance 7 of 24");
    wrong.instances = N;
    wrong.position = N + 1;
    CHECK_ERROR(order_restore(&other, &wrong, "a.npy", &err), err, "instance 24 of 23, there are 23 now");
    CHECK(memcmp(&before, &other.state, sizeof before) == 0);
    order_free(&other);

    // Over other data the run begins an epoch anew, the one after the saved one if that had begun.
    if (!CHECK(order_create(&other, N - 1, BATCH, true, 8, &err))) { return; }
    order_continue(&other, &states[7]);
    CHECK(other.state.seed == 7 && other.state.epoch == 1 && other.state.position == 0);
    CHECK(other.state.instances == N - 1);
    order_continue(&other, &states[0]);
    CHECK(other.state.epoch == 0 && other.state.position == 0);
    order_free(&other);
    order_free(&o);
}

static void test_bad_sizes(void) {
    Order o;
    Error err = {""};
    CHECK_ERROR(order_create(&o, 0, 1, true, 0, &err), err, "at least one whole batch");
    CHECK_ERROR(order_create(&o, 4, 5, true, 0, &err), err, "4 instances in batches of 5");
    CHECK_ERROR(order_create(&o, 4, 0, true, 0, &err), err, "at least one whole batch");
    CHECK_ERROR(order_create(&o, (size_t)1 << 32, 1, true, 0, &err), err,
                "4294967296 instances cannot be shuffled");
    if (CHECK(order_create(&o, (size_t)1 << 32, 1, false, 0, &err))) { order_free(&o); }
}

// What order_write writes is what runs have saved since there are runs, and it is read back.
static void test_json(void) {
    const OrderState state = {6198, 2, 15, 23};
    const char *text = "{\"seed\": 6198, \"epoch\": 2, \"position\": 15, \"instances\": 23}";
    OrderState read;
    JsonWriter w;
    JsonDocument doc;
    Error err = {""};
    memset(&w, 0, sizeof w);
    order_write(&w, NULL, &state);
    CHECK(strcmp(w.text, text) == 0);
    json_writer_free(&w);
    if (!CHECK(json_parse(&doc, text, strlen(text), "state.json", &err))) { return; }
    CHECK(order_read(&read, doc.root, "state.json", &err) && memcmp(&read, &state, sizeof state) == 0);
    json_free(&doc);
    CHECK_ERROR(order_read(&read, NULL, "state.json", &err), err, "state.json: \"seed\" is missing");
    text = "{\"seed\": 6198, \"epoch\": 2, \"position\": -1, \"instances\": 23}";
    if (!CHECK(json_parse(&doc, text, strlen(text), "state.json", &err))) { return; }
    CHECK_ERROR(order_read(&read, doc.root, "state.json", &err), err, "\"position\" is -1");
    json_free(&doc);
}

int main(void) {
    test_shuffled();
    test_unshuffled();
    test_restore();
    test_bad_sizes();
    test_json();
    return check_report();
}
