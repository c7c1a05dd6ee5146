/*
 * What every rival of `phalanx bench lock|rwlock|semaphore|counter|election` has in common: ranks contend for objects
 * for a fixed time, and each leaves the record of what it came to hold.
 *
 * A program starts its ranks and has each call `contend` with its functions; `contend` is always inlined, so that they
 * are called directly. The first `busy` ranks contend, each for an object that it draws at random, alone or, of a lock
 * with readers, shared with other readers; the rest are idle and must not disturb. Where only one is busy the second
 * half of the time goes to pairs of acquire and release without a clock between them.
 *
 * A busy rank leaves DIR/<rank>.contest, little-endian u64s all: the head (`struct head`), then as many possessions
 * (`struct possession`) as it says, then as many ticks, each of so many pairs, as it says. An idle rank leaves a head
 * of zeros. Possessions need no numbers of their own: they exclude each other, so that the common clock orders them.
 */
#ifndef PHALANX_RIVALS_CONTEST_H
#define PHALANX_RIVALS_CONTEST_H

#include "common.h"

/* How long a batch of pairs is to last: the clock's reads are then no part of it. */
#define BATCH_NS 20000.0
/* At most so many batches are recorded. */
#define MOST_BATCHES 65536u
/* How long before the start all are told of it. */
#define HEAD_START_NS 2e6
/* The top bit of `what` says that the possession was shared; the others are the object's number. */
#define SHARED (1ull << 63)

struct head {
    /* Objects that came to be held by the end, also those of which there is no record. */
    uint64_t count;
    /* The time in which they were counted, in ticks. */
    uint64_t start;
    uint64_t end;
    uint64_t possessions;
    uint64_t batches;
    uint64_t pairs_of_batch;
};

struct possession {
    uint64_t request;
    uint64_t acquired;
    uint64_t released;
    uint64_t what;
};

/* How a program does it. */
struct contestant {
    void (*acquire)(void *context, uint64_t object, bool shared);
    /* NULL where nothing is held: of a counter. */
    void (*release)(void *context, uint64_t object, bool shared);
    /* Meets all the ranks. */
    void (*meet)(void *context);
    /* Hands rank 0's number to all of them. */
    uint64_t (*from_rank_0)(void *context, uint64_t value);
    /* What an idle rank does until a moment, where sleeping in `meet` is not idle enough; may be NULL. */
    void (*idle)(const struct options *options, uint64_t until);
};

struct contest {
    const struct options *options;
    uint64_t random;
    uint64_t hold;
    uint64_t think;
    uint64_t readers;
    struct head head;
    struct possession *possessions;
    uint64_t *batches;
};

static inline uint64_t in_ticks(const struct options *options, double ns)
{
    return (uint64_t)(ns / options->ns_per_tick);
}

/* The clock once all before is over: a counter may otherwise be read while the acquisition is still under way. */
static inline uint64_t now_after(const struct options *options)
{
#if defined(__x86_64__)
    _mm_lfence();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
    return now(options);
}

static inline struct options parse_contest(int count, char **arguments)
{
    struct options options = parse_options(count, arguments);
    if (!options.object || options.busy < 1 || options.busy > options.ranks || options.nodes < 1 || !options.objects)
        die("--object, --nodes, --busy and --objects must be given");
    return options;
}

/* Whether this program measures that object: "lock", "rwlock", "semaphore", "counter" or "election". */
static inline bool is_object(const struct options *options, const char *name)
{
    return !strcmp(options->object, name);
}

/* The node at which an object lives: the last for the first, so that a busy rank 0 is far from it. */
static inline int home_of(const struct options *options, uint64_t object)
{
    return options->nodes - 1 - (int)(object % (uint64_t)options->nodes);
}

/* The first rank of a node, where ranks are spread over nodes in blocks. */
static inline int first_rank_of(const struct options *options, int node)
{
    return (node * options->ranks + options->nodes - 1) / options->nodes;
}

/* Zeroed by writing, so that no page is first touched while the clock runs. */
static inline void *allocate_record(uint64_t bytes)
{
    void *memory = malloc(bytes);
    if (!memory)
        die("no memory for %llu bytes of record", (unsigned long long)bytes);
    memset(memory, 1, bytes);
    return memory;
}

static inline void draw(struct contest *contest, uint64_t *object, bool *shared)
{
    *object = contest->options->objects == 1 ? 0 : random_below(&contest->random, contest->options->objects);
    *shared = contest->readers && next_random(&contest->random) <= contest->readers;
}

/* Holds one object after another until the deadline, or as often as is asked for. */
__attribute__((always_inline)) static inline void hold_until(
    struct contest *contest, uint64_t deadline, uint64_t times, struct contestant contestant, void *context)
{
    const struct options *options = contest->options;
    uint64_t request = now(options);
    contest->head.start = request;
    contest->head.count = contest->head.possessions = 0;
    /* Once at least, also where the time was over before this rank had a CPU. */
    for (uint64_t i = 0; i == 0 || (i < times && request < deadline); i++) {
        uint64_t object;
        bool shared;
        draw(contest, &object, &shared);
        contestant.acquire(context, object, shared);
        uint64_t acquired = now_after(options);
        uint64_t released = contest->hold ? spin_until(options, acquired + contest->hold) : acquired;
        if (contestant.release)
            contestant.release(context, object, shared);
        contest->head.count += acquired <= deadline;
        if (contest->head.possessions < options->most_samples)
            contest->possessions[contest->head.possessions++] =
                (struct possession){request, acquired, released, object | (shared ? SHARED : 0)};
        if (contest->think)
            request = spin_until(options, now(options) + contest->think);
        else
            request = contestant.release ? now(options) : acquired;
    }
    uint64_t begin = contest->head.start;
    contest->head.end = request < deadline ? request : deadline > begin ? deadline : begin;
}

/* Times batches of pairs until the deadline. */
__attribute__((always_inline)) static inline void time_pairs(
    struct contest *contest, uint64_t deadline, struct contestant contestant, void *context)
{
    const struct options *options = contest->options;
    double held_ns = (double)(contest->head.end - contest->head.start) * options->ns_per_tick;
    double pairs_a_ns = (double)contest->head.count / larger(held_ns, 1);
    uint64_t pairs = (uint64_t)larger(BATCH_NS * pairs_a_ns, 1);
    contest->head.pairs_of_batch = pairs;
    uint64_t begin = now(options);
    while (begin < deadline && contest->head.batches < MOST_BATCHES) {
        for (uint64_t i = 0; i < pairs; i++) {
            uint64_t object;
            bool shared;
            draw(contest, &object, &shared);
            contestant.acquire(context, object, shared);
            if (contestant.release)
                contestant.release(context, object, shared);
        }
        uint64_t end = now(options);
        contest->batches[contest->head.batches++] = end - begin;
        begin = end;
    }
}

static inline void write_contest(const struct contest *contest, int rank)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%d.contest", contest->options->out, rank) >= (int)sizeof path)
        die("--out: path too long");
    FILE *file = fopen(path, "wb");
    if (!file)
        die("%s: %s", path, strerror(errno));
    const struct head *head = &contest->head;
    bool written = fwrite(head, sizeof *head, 1, file) == 1
        && fwrite(contest->possessions, sizeof *contest->possessions, head->possessions, file) == head->possessions
        && fwrite(contest->batches, sizeof *contest->batches, head->batches, file) == head->batches;
    if (fclose(file) || !written)
        die("%s: %s", path, strerror(errno));
}

/* One rank's whole run: pin, warm up, begin together, contend, meet, write. */
__attribute__((always_inline)) static inline void contend(
    const struct options *options, int rank, struct contestant contestant, void *context)
{
    pin_rank(options, rank);
    bool busy = rank < options->busy;
    bool alone = options->busy == 1;
    struct contest contest = {
        .options = options,
        .random = options->seed + (uint64_t)rank,
        .hold = in_ticks(options, (double)options->hold_ns),
        .think = in_ticks(options, (double)options->think_ns),
        .readers = (uint64_t)(options->readers * 18446744073709549568.0),
        .possessions = allocate_record(busy ? options->most_samples * sizeof(struct possession) : 1),
        .batches = allocate_record(busy && alone ? MOST_BATCHES * sizeof(uint64_t) : 1),
    };
    uint64_t span = in_ticks(options, options->max_seconds * NS_PER_SECOND);
    uint64_t warm_until = contestant.from_rank_0(context, now(options) + (uint64_t)(WARMUP_SHARE * (double)span));
    if (busy)
        hold_until(&contest, warm_until, options->warmup, contestant, context);
    else if (contestant.idle)
        contestant.idle(options, warm_until);
    uint64_t start = contestant.from_rank_0(context, now(options) + in_ticks(options, HEAD_START_NS));
    uint64_t first_end = start + (alone ? span / 2 : span);
    while (now(options) < start)
        sched_yield();
    memset(&contest.head, 0, sizeof contest.head);
    if (busy)
        hold_until(&contest, first_end, options->iterations, contestant, context);
    if (busy && alone)
        time_pairs(&contest, start + span, contestant, context);
    if (!busy && contestant.idle)
        contestant.idle(options, start + span);
    contestant.meet(context);
    write_contest(&contest, rank);
    free(contest.possessions);
    free(contest.batches);
}

#endif
