/*
 * What every rival of `phalanx bench barrier` has in common, so that each program is little more than its barrier:
 * the arguments, the common clock, pinning, the arrival patterns, the time budget, the record and its file. Rivals of
 * locks take the arguments, the clock and pinning from here, and the rest from `contest.h`.
 *
 * A program calls `parse_options`, starts its ranks, and has each rank call `measure` with two functions: one that
 * meets all the ranks, and one that hands rank 0's number to all of them. `measure` is always inlined, so that the
 * barrier is called directly and not through a pointer.
 *
 * A rank leaves DIR/<rank>.samples: pairs of little-endian u64, the clock's ticks at which it entered a barrier and
 * at which it left it, one pair for each recorded iteration.
 */
#ifndef PHALANX_RIVALS_COMMON_H
#define PHALANX_RIVALS_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#define NS_PER_SECOND 1000000000.0

/* The share of the time budget that the warm-up may take; the record has the rest. */
#define WARMUP_SHARE 0.2

enum arrival { BACK_TO_BACK, ROTATE_LATE, RANDOM_LATE, OPEN_LOOP };

struct options {
    int ranks;
    uint64_t iterations;
    uint64_t warmup;
    enum arrival arrival;
    uint64_t late_ns;
    uint64_t period_ns;
    uint64_t seed;
    double ns_per_tick;
    int cpus[CPU_SETSIZE];
    int cpu_count;
    const char *out;
    double max_seconds;
    bool threads;
    /* From here on: for contests only, see `contest.h`. */
    const char *object;
    int nodes;
    int busy;
    uint64_t objects;
    uint64_t hold_ns;
    uint64_t think_ns;
    double readers;
    uint64_t permits;
    uint64_t most_samples;
    int port;
};

struct sample {
    uint64_t enter;
    uint64_t exit;
};

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static inline uint64_t parse_number(const char *name, const char *text)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-')
        die("%s: not a number: %s", name, text);
    return number;
}

static inline double parse_positive(const char *name, const char *text)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end || !(number > 0))
        die("%s: not a positive number: %s", name, text);
    return number;
}

static inline enum arrival parse_arrival(const char *text)
{
    static const char *const names[] = {"back-to-back", "rotate-late", "random-late", "open-loop"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(text, names[i]))
            return (enum arrival)i;
    die("--arrival: unknown pattern: %s", text);
}

static inline void parse_cpus(struct options *options, const char *text)
{
    const char *cursor = text;
    while (*cursor) {
        char *end;
        unsigned long cpu = strtoul(cursor, &end, 10);
        if (end == cursor || (*end && *end != ',') || cpu >= CPU_SETSIZE || options->cpu_count == CPU_SETSIZE)
            die("--cpus: not a list of CPUs: %s", text);
        options->cpus[options->cpu_count++] = (int)cpu;
        cursor = *end ? end + 1 : end;
    }
}

static inline void parse_contest_option(struct options *options, const char *name, const char *value)
{
    if (!strcmp(name, "--object"))
        options->object = value;
    else if (!strcmp(name, "--nodes"))
        options->nodes = (int)parse_number(name, value);
    else if (!strcmp(name, "--busy"))
        options->busy = (int)parse_number(name, value);
    else if (!strcmp(name, "--objects"))
        options->objects = parse_number(name, value);
    else if (!strcmp(name, "--hold-ns"))
        options->hold_ns = parse_number(name, value);
    else if (!strcmp(name, "--think-ns"))
        options->think_ns = parse_number(name, value);
    else if (!strcmp(name, "--readers"))
        options->readers = strtod(value, NULL);
    else if (!strcmp(name, "--permits"))
        options->permits = parse_number(name, value);
    else if (!strcmp(name, "--most-samples"))
        options->most_samples = parse_number(name, value);
    else if (!strcmp(name, "--port"))
        options->port = (int)parse_number(name, value);
    else
        die("unknown option: %s", name);
}

static inline void parse_option(struct options *options, const char *name, const char *value)
{
    if (!strcmp(name, "--ranks"))
        options->ranks = (int)parse_number(name, value);
    else if (!strcmp(name, "--iterations"))
        options->iterations = parse_number(name, value);
    else if (!strcmp(name, "--warmup"))
        options->warmup = parse_number(name, value);
    else if (!strcmp(name, "--arrival"))
        options->arrival = parse_arrival(value);
    else if (!strcmp(name, "--late-ns"))
        options->late_ns = parse_number(name, value);
    else if (!strcmp(name, "--period-ns"))
        options->period_ns = parse_number(name, value);
    else if (!strcmp(name, "--seed"))
        options->seed = parse_number(name, value);
    else if (!strcmp(name, "--ns-per-tick"))
        options->ns_per_tick = parse_positive(name, value);
    else if (!strcmp(name, "--cpus"))
        parse_cpus(options, value);
    else if (!strcmp(name, "--out"))
        options->out = value;
    else if (!strcmp(name, "--max-seconds"))
        options->max_seconds = parse_positive(name, value);
    else
        parse_contest_option(options, name, value);
}

static inline struct options parse_options(int count, char **arguments)
{
    struct options options = {.ns_per_tick = 1.0, .max_seconds = 10.0, .iterations = 1000};
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        if (!strcmp(name, "--threads")) {
            options.threads = true;
            continue;
        }
        if (++i == count)
            die("%s: value missing", name);
        parse_option(&options, name, arguments[i]);
    }
    if (options.ranks < 1 || options.iterations < 1 || !options.out)
        die("--ranks, --iterations and --out must be given");
    return options;
}

/*
 * The common clock. A length of exactly one nanosecond is how the runner says that the time-stamp counter is not to
 * be trusted on this machine.
 */
static inline uint64_t now(const struct options *options)
{
#if defined(__x86_64__)
    if (options->ns_per_tick != 1.0)
        return __rdtsc();
#elif defined(__aarch64__)
    if (options->ns_per_tick != 1.0) {
        uint64_t ticks;
        __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
        return ticks;
    }
#endif
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    uint64_t ns = (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
    return options->ns_per_tick == 1.0 ? ns : (uint64_t)((double)ns / options->ns_per_tick);
}

/* Pins the calling thread, and with it all the threads that it will start. */
static inline void pin_rank(const struct options *options, int rank)
{
    if (!options->cpu_count)
        return;
    int cpu = options->cpus[rank % options->cpu_count];
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        die("rank %d: cannot be pinned to CPU %d: %s", rank, cpu, strerror(errno));
}

/* SplitMix64: one rank's delays depend on the seed and its rank only, on every system. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)next_random(state) * bound) >> 64);
}

static inline uint64_t spin_until(const struct options *options, uint64_t due)
{
    uint64_t time;
    do
        time = now(options);
    while (time < due);
    return time;
}

/* One rank's place in the run: what `iterate` needs beside the barrier itself. */
struct rank_state {
    const struct options *options;
    int rank;
    uint64_t random;
    uint64_t late_ticks;
    double period_ticks;
    uint64_t start;
};

/* Leaving is entering: one clock read an iteration, and none of the run's time goes unrecorded. */
__attribute__((always_inline)) static inline void iterate_back_to_back(
    struct rank_state *state, struct sample *samples, uint64_t count, void (*meet)(void *), void *context)
{
    uint64_t enter = now(state->options);
    for (uint64_t i = 0; i < count; i++) {
        meet(context);
        uint64_t exit = now(state->options);
        samples[i] = (struct sample){enter, exit};
        enter = exit;
    }
}

/* The moment at which iteration `i` is to be entered by a rank that left the one before at `left`. */
static inline uint64_t entry_due(struct rank_state *state, uint64_t i, uint64_t left)
{
    switch (state->options->arrival) {
    case ROTATE_LATE:
        return i % (uint64_t)state->options->ranks == (uint64_t)state->rank ? left + state->late_ticks : left;
    case RANDOM_LATE:
        return left + random_below(&state->random, state->late_ticks);
    case OPEN_LOOP:
        return state->start + (uint64_t)((double)i * state->period_ticks);
    default:
        return left;
    }
}

__attribute__((always_inline)) static inline void iterate(
    struct rank_state *state, struct sample *samples, uint64_t count, void (*meet)(void *), void *context)
{
    if (state->options->arrival == BACK_TO_BACK) {
        iterate_back_to_back(state, samples, count, meet, context);
        return;
    }
    bool open_loop = state->options->arrival == OPEN_LOOP;
    uint64_t left = now(state->options);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t due = entry_due(state, i, left);
        uint64_t entered = spin_until(state->options, due);
        meet(context);
        left = now(state->options);
        samples[i] = (struct sample){open_loop ? due : entered, left};
    }
}

/* Zeroed by writing, so that no page is first touched while the clock runs. */
static inline struct sample *allocate_samples(uint64_t count)
{
    struct sample *samples = malloc(count * sizeof *samples);
    if (!samples)
        die("no memory for %llu samples", (unsigned long long)count);
    for (uint64_t i = 0; i < count; i++)
        ((volatile struct sample *)samples)[i].enter = 0;
    return samples;
}

static inline void write_samples(
    const struct options *options, int rank, const struct sample *samples, uint64_t count)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%d.samples", options->out, rank) >= (int)sizeof path)
        die("--out: path too long");
    FILE *file = fopen(path, "wb");
    if (!file)
        die("%s: %s", path, strerror(errno));
    bool written = fwrite(samples, sizeof *samples, count, file) == count;
    if (fclose(file) || !written)
        die("%s: %s", path, strerror(errno));
}

static inline uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline double larger(double a, double b)
{
    return a > b ? a : b;
}

/*
 * How many iterations of `iteration_ns` fit into `left_ns`. Rank 0 alone decides, and its number is handed to all,
 * so that all ranks meet equally often.
 */
static inline uint64_t iterations_that_fit(double left_ns, double iteration_ns)
{
    if (left_ns <= 0)
        return 0;
    return (uint64_t)(left_ns / larger(iteration_ns, 1));
}

/*
 * Warms up in batches that double, for as long as the warm-up's share of the budget lasts: where one barrier takes
 * milliseconds, a fixed number of them would take minutes. Returns the length of an iteration: in the last batch, the
 * longest and warmest, or in all but the first, which sets up connections, if that is more. A lucky last batch would
 * overrun the budget.
 */
__attribute__((always_inline)) static inline double warm_up(
    struct rank_state *state, struct sample *samples, void (*meet)(void *),
    uint64_t (*from_rank_0)(void *, uint64_t), void *context)
{
    const struct options *options = state->options;
    double tick = options->ns_per_tick;
    double budget_ns = WARMUP_SHARE * options->max_seconds * NS_PER_SECOND;
    uint64_t begin = now(options);
    uint64_t done = 0;
    uint64_t batch = 1;
    uint64_t first_end = begin;
    double iteration_ns = 1;
    while ((batch = from_rank_0(context, batch)) > 0) {
        uint64_t batch_begin = now(options);
        state->start = batch_begin;
        iterate(state, samples, batch, meet, context);
        uint64_t batch_end = now(options);
        iteration_ns = (double)(batch_end - batch_begin) * tick / (double)batch;
        if (done == 0)
            first_end = batch_end;
        else
            iteration_ns = larger(iteration_ns, (double)(batch_end - first_end) * tick / (double)(done + batch - 1));
        done += batch;
        double left_ns = budget_ns - (double)(batch_end - begin) * tick;
        uint64_t wanted = done < options->warmup ? options->warmup - done : 0;
        batch = smaller(smaller(2 * batch, wanted), iterations_that_fit(left_ns, iteration_ns));
        batch = smaller(batch, options->iterations);
    }
    return iteration_ns;
}

/*
 * One rank's whole run: pin, warm up, agree on the number of iterations, meet, write. The open loop begins a
 * millisecond from now and four barriers later, so that word of the start reaches all before the first is due.
 */
__attribute__((always_inline)) static inline void measure(
    const struct options *options, int rank, void (*meet)(void *), uint64_t (*from_rank_0)(void *, uint64_t),
    void *context)
{
    pin_rank(options, rank);
    struct sample *samples = allocate_samples(options->iterations);
    struct rank_state state = {
        .options = options,
        .rank = rank,
        .random = options->seed + (uint64_t)rank,
        .late_ticks = (uint64_t)((double)options->late_ns / options->ns_per_tick),
        .period_ticks = (double)options->period_ns / options->ns_per_tick,
    };
    double iteration_ns = warm_up(&state, samples, meet, from_rank_0, context);
    double left_ns = (1 - WARMUP_SHARE) * options->max_seconds * NS_PER_SECOND;
    uint64_t fit = iterations_that_fit(left_ns, iteration_ns);
    uint64_t count = from_rank_0(context, smaller(options->iterations, fit ? fit : 1));
    state.random = options->seed + (uint64_t)rank;
    uint64_t head_start = (uint64_t)((1e6 + 4 * iteration_ns) / options->ns_per_tick);
    state.start = from_rank_0(context, now(options) + head_start);
    meet(context);
    iterate(&state, samples, count, meet, context);
    write_samples(options, rank, samples, count);
    free(samples);
}

struct thread_of_rank {
    const struct options *options;
    int rank;
    void (*body)(const struct options *, int);
};

static inline void *enter_thread(void *argument)
{
    struct thread_of_rank *thread = argument;
    thread->body(thread->options, thread->rank);
    return NULL;
}

/* Runs `body` once for each rank, each in a thread of its own. */
static inline void run_ranks_as_threads(const struct options *options, void (*body)(const struct options *, int))
{
    pthread_t *handles = calloc((size_t)options->ranks, sizeof *handles);
    struct thread_of_rank *threads = calloc((size_t)options->ranks, sizeof *threads);
    if (!handles || !threads)
        die("no memory for %d threads", options->ranks);
    for (int rank = 0; rank < options->ranks; rank++) {
        threads[rank] = (struct thread_of_rank){options, rank, body};
        int error = pthread_create(&handles[rank], NULL, enter_thread, &threads[rank]);
        if (error)
            die("thread %d: %s", rank, strerror(error));
    }
    for (int rank = 0; rank < options->ranks; rank++)
        pthread_join(handles[rank], NULL);
    free(handles);
    free(threads);
}

#endif
