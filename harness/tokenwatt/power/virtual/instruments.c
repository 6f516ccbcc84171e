/* What the boards of a script really draw, in closed form, and what their instruments make of it. */
#include "virtual_nvml.h"

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { STREAM_COUNTER, STREAM_NOISE, STREAM_LATENCY, STREAM_WALK, STREAMS };

static pthread_mutex_t limits_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- time ---- */

double virtual_nvml_time(void) {
    if (machine && machine->is_manual) return machine->manual_s;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void virtual_nvml_set_time(double at_s) { machine->manual_s = at_s; }

static uint64_t mixed(uint64_t bits) { /* splitmix64 */
    bits += 0x9e3779b97f4a7c15ULL;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9ULL;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebULL;
    return bits ^ bits >> 31;
}

/* A number in [0, 1): chance for whoever does not know the seed, and always the same for the same arguments. */
static double chance(const Board *board, int stream, uint64_t index) {
    uint64_t place = mixed((uint64_t)machine->seed) + (uint64_t)(board->number * STREAMS + stream);
    return (double)(mixed(mixed(place) ^ index) >> 11) * 0x1p-53;
}

static void wait_s(double seconds) {
    if (seconds <= 0) return;
    if (machine->is_manual) { machine->manual_s += seconds; return; }
    struct timespec left = {(time_t)seconds, (long)(1e9 * fmod(seconds, 1))};
    nanosleep(&left, NULL);
}

/* A call takes its time; its answer is of the moment that is returned, on the script's clock. */
double call(const Board *board, double latency_s) {
    if (latency_s < 0) latency_s = board->latency_s;
    latency_s *= 1 + board->latency_jitter * chance(board, STREAM_LATENCY, ++machine->calls);
    wait_s(latency_s / 2);
    double at_s = virtual_nvml_time() - machine->epoch_s;
    wait_s(latency_s / 2);
    return at_s;
}

/* ---- truth ---- */

/* The knot at or before a moment, -1 before the first. */
static int knot_before(const Board *board, double at_s) {
    int low = -1, high = board->knots_count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (board->knots[middle].at_s <= at_s) low = middle; else high = middle;
    }
    return low;
}

/* The waveform at a moment within the knots or beside them, without any limit. */
static double wave_w(const Board *board, double at_s) {
    int left = knot_before(board, at_s);
    if (left < 0) return board->knots[0].power_w;
    const Knot *knot = &board->knots[left];
    if (left == board->knots_count - 1) return knot->power_w;
    return knot->power_w + (knot[1].power_w - knot->power_w) * (at_s - knot->at_s) / (knot[1].at_s - knot->at_s);
}

static double folded_s(const Board *board, double at_s) {
    if (!board->repeat) return at_s;
    double period_s = board->knots[board->knots_count - 1].at_s;
    return at_s - period_s * floor(at_s / period_s);
}

/* Area under a straight line of `length_s`, cut off at `cap_w`. */
static double line_j(double begin_w, double end_w, double length_s, double cap_w) {
    double low_w = fmin(begin_w, end_w), high_w = fmax(begin_w, end_w);
    if (low_w >= cap_w) return cap_w * length_s;
    double whole_j = (low_w + high_w) / 2 * length_s;
    if (high_w <= cap_w) return whole_j;
    double over_w = high_w - cap_w;
    return whole_j - over_w * over_w / (high_w - low_w) * length_s / 2;
}

/* Area under the waveform, cut off at `cap_w`, from the first knot to a moment (negative before it). */
static double area_j(const Board *board, double at_s, double cap_w) {
    const Knot *first = board->knots, *last = first + board->knots_count - 1;
    /* None for a moment that is before 0 by less than a double can tell from it, which would be folded for ever. */
    double turns = board->repeat ? floor(at_s / last->at_s) : 0;
    if (turns && (at_s < 0 || at_s > last->at_s)) {
        return turns * area_j(board, last->at_s, cap_w) + area_j(board, at_s - turns * last->at_s, cap_w);
    }
    int left = knot_before(board, at_s);
    if (left < 0) return fmin(first->power_w, cap_w) * (at_s - first->at_s);
    double sum_j = first[left].energy_j;
    if (board->peak_w > cap_w) {
        sum_j = 0;
        for (const Knot *knot = first; knot < first + left; knot++)
            sum_j += line_j(knot->power_w, knot[1].power_w, knot[1].at_s - knot->at_s, cap_w);
    }
    return sum_j + line_j(first[left].power_w, wave_w(board, at_s), at_s - first[left].at_s, cap_w);
}

/* Take in the limits that other processes, or this one, have added to the file. */
void read_limits(void) {
    if (!machine->limit_file[0]) return;
    pthread_mutex_lock(&limits_lock);
    FILE *file = fopen(machine->limit_file, "r");
    if (file && fseek(file, machine->limit_file_read, SEEK_SET) == 0) {
        char line[128];
        int number;
        double at_s, watts;
        while (fgets(line, sizeof line, file) && strchr(line, '\n')) {
            machine->limit_file_read = ftell(file);
            if (sscanf(line, "%d %lf %lf", &number, &at_s, &watts) != 3 || number < 0 || number >= MAX_BOARDS) continue;
            Board *board = &machine->boards[number];
            if (board->limits_count < MAX_LIMITS)
                board->limits[board->limits_count++] = (Limit){at_s - machine->epoch_s, watts};
        }
    }
    if (file) fclose(file);
    pthread_mutex_unlock(&limits_lock);
}

static void shorten(double *until_s, double to_s) {
    if (until_s) *until_s = fmin(*until_s, to_s);
}

double set_limit_w(const Board *board, double at_s, double *until_s) {
    double watts = board->limit_w;
    if (until_s) *until_s = INFINITY;
    for (const Limit *limit = board->limits; limit < board->limits + board->limits_count; limit++) {
        if (limit->from_s <= at_s) watts = limit->watts;
        else shorten(until_s, limit->from_s);
    }
    return watts;
}

double enforced_limit_w(const Board *board, double at_s, double *until_s) {
    double watts = set_limit_w(board, at_s, until_s);
    for (const Fault *fault = board->faults; fault < board->faults + board->faults_count; fault++) {
        if (fault->kind != CAP || fault->to_s <= at_s) continue;
        if (fault->from_s <= at_s) watts = fmin(watts, fault->value);
        shorten(until_s, fault->from_s <= at_s ? fault->to_s : fault->from_s);
    }
    return watts;
}

static double power_w(const Board *board, double at_s) {
    return fmin(wave_w(board, folded_s(board, at_s)), enforced_limit_w(board, at_s, NULL));
}

static double energy_j(const Board *board, double from_s, double to_s) {
    if (to_s < from_s) return -energy_j(board, to_s, from_s);
    double sum_j = 0, until_s;
    for (double at_s = from_s; at_s < to_s; at_s = until_s) {
        double cap_w = enforced_limit_w(board, at_s, &until_s);
        until_s = fmin(until_s, to_s);
        sum_j += area_j(board, until_s, cap_w) - area_j(board, at_s, cap_w);
    }
    return sum_j;
}

/* Energy that a board has drawn between two moments of the clock, J; nan for a board that is not there. */
double virtual_nvml_true_energy_j(int board, double from_s, double to_s) {
    if (!machine || board < 0 || board >= machine->boards_count) return NAN;
    read_limits();
    return energy_j(&machine->boards[board], from_s - machine->epoch_s, to_s - machine->epoch_s);
}

/* ---- the instruments ---- */

const Fault *fault_at(const Board *board, FaultKind kind, double at_s) {
    for (const Fault *fault = board->faults; fault < board->faults + board->faults_count; fault++) {
        int lasts = at_s < fault->to_s || kind == LOST || kind == COUNTER_RESET;
        if (fault->kind == kind && fault->from_s <= at_s && lasts) return fault;
    }
    return NULL;
}

static double counter_tick_s(const Board *board, double turn, double walked_s) {
    double jitter = chance(board, STREAM_COUNTER, (uint64_t)(int64_t)turn) - 0.5;
    return board->counter_phase_s + turn * board->counter_period_s + jitter * board->counter_jitter_s + walked_s;
}

/* How much longer or shorter the spacing before a renewal is than the period; before the epoch nothing walks. */
static double step_s(const Board *board, double turn) {
    return turn < 0 ? 0 : (chance(board, STREAM_WALK, (uint64_t)(int64_t)turn) - 0.5) * board->counter_walk_s;
}

/* When the counter was renewed last. A walk is followed from the epoch on, since its steps add up. */
static double last_tick_s(const Board *board, double at_s) {
    double turn = floor((at_s - board->counter_phase_s) / board->counter_period_s) + 1, walked_s = 0;
    if (board->counter_walk_s && turn > 0) {
        for (turn = 0, walked_s = step_s(board, 0); counter_tick_s(board, turn, walked_s) <= at_s;)
            walked_s += step_s(board, ++turn);
    }
    for (; counter_tick_s(board, turn, walked_s) > at_s; turn--) walked_s -= step_s(board, turn);
    return counter_tick_s(board, turn, walked_s);
}

double counter_j(const Board *board, double at_s) {
    const Fault *stuck = fault_at(board, STUCK_COUNTER, at_s), *reset = fault_at(board, COUNTER_RESET, at_s);
    double tick_s = last_tick_s(board, stuck ? stuck->from_s : at_s), from_s = reset ? reset->from_s : 0;
    double module_j = board->counter_module ? board->module_extra_w * (tick_s - from_s) : 0;
    return fmax(0, board->counter_gain * (energy_j(board, from_s, tick_s) + module_j));
}

double mean_power_w(const Board *board, double at_s, double length_s) {
    return energy_j(board, at_s - length_s, at_s) / length_s;
}

static double noise_w(const Board *board, uint64_t index) {
    if (!board->power_noise_w) return 0;
    double radius = sqrt(-2 * log(1 - chance(board, STREAM_NOISE, 2 * index)));
    return board->power_noise_w * radius * cos(2 * M_PI * chance(board, STREAM_NOISE, 2 * index + 1));
}

unsigned power_reading_mw(const Board *board, double at_s, unsigned scope) {
    if (fault_at(board, ZERO_POWER, at_s)) return 0;
    const Fault *frozen = fault_at(board, FROZEN_POWER, at_s);
    if (frozen) at_s = frozen->from_s;
    double turn = 1e9 * at_s; /* always renewed: a new error every nanosecond */
    if (board->power_period_s) {
        turn = floor((at_s - board->power_phase_s) / board->power_period_s);
        at_s = board->power_phase_s + turn * board->power_period_s;
    }
    double watts = board->power_average_s ? mean_power_w(board, at_s, board->power_average_s) : power_w(board, at_s);
    watts = board->power_gain * watts + noise_w(board, (uint64_t)(int64_t)turn);
    return (unsigned)(1e3 * fmax(0, watts + (scope == SCOPE_MODULE ? board->module_extra_w : 0)) + 0.5);
}
