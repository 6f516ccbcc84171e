/*
 * A libnvidia-ml.so.1 whose boards draw exactly known power, for machines without a GPU, scripted by a text.
 *
 * The script is the file that VIRTUAL_NVML_SCRIPT names, read at nvmlInit, or the text given to
 * virtual_nvml_load_script. A script that has not changed is not begun anew: counters and limits live on, as those of a
 * real board do when a process starts NVML again. With a mistake in it nvmlInit answers NVML_ERROR_UNKNOWN, and
 * virtual_nvml_error says which line is wrong.
 *
 * A script has lines of `key = value`; `#` begins a comment. Of two lines with one key the later counts. All times are
 * seconds since the epoch.
 *
 * The machine:
 *   clock = monotonic      CLOCK_MONOTONIC, which is Python's time.monotonic; or
 *           manual         moved by virtual_nvml_set_time and by the latency of calls: for one thread, exactly repeatable
 *   epoch_s = 12.5         time 0 of this script on that clock; by default the first nvmlInit, with a manual clock 0
 *   seed = 1               of noise and jitter
 *   boards = 1             how many, at most 16
 *   order = 2,0,1          board behind each NVML index; UUID and minor number keep to the board
 *   driver = virtual       driver version
 *   old_driver = 0         1: the power field is unknown, and so are the calls that replaced deprecated ones
 *   limit_file = PATH      lines of `board time_s watts`, one for each limit that any process has set: they share it
 *
 * A board; alone for all boards, after `board.1.` for that one (its own `at` lines replace those of all boards):
 *   at = T W               true power is W at T; straight lines between these points, the last value held
 *   repeat = 0             1: the points repeat; the first must be at 0, the period is the time of the last
 *   power_period_s = 0     the power reading is renewed so often (0: always), at power_phase_s = 0 past each multiple
 *   power_average_s = 0    it is the mean of so many seconds before (0: the power of the moment)
 *   power_gain = 1         it is so many times the truth,
 *   power_noise_w = 0      give or take a normal error of this standard deviation, new with each renewal
 *   counter_period_s = 0.1 the energy counter is renewed so often, at counter_phase_s = 0 past each multiple,
 *   counter_jitter_s = 0   each time early or late by up to half of this
 *   counter_gain = 1       it counts so many times the truth
 *   counter_module = 0     1: it counts the module, not the GPU alone
 *   module_extra_w = 0     a module draws so much more than its GPU; 0: there is none
 *   latency_s = 0          a call takes so long, and its answer is of its middle; counter_latency_s = -1 and
 *                          power_latency_s = -1 are for those readings alone (-1: latency_s)
 *   latency_jitter = 0     a call takes longer by a share of its latency that is drawn from 0 to this
 *   limit_w = 700, default_limit_w = 700, min_limit_w = 200, max_limit_w = 700
 *                          power limits; the waveform is cut off at the one that is in force
 *   may_set_limit = 0      1: nvmlDeviceSetPowerManagementLimit works, else there is no permission
 *   sm_clock_mhz = 1500, memory_clock_mhz = 2600
 *   temperature_c = 50, temperature_slope_c_per_s = 0
 *   throttle = 0           bits of the clocks event reasons
 *   ecc = 1, mig = 0       modes; with mig = 1 there is a slice MIG-..., which has no meter
 *   processes = 12,self    compute processes; `self` is the process that asks
 *   name = Virtual GPU 0
 *   no_counter = 0, no_instant = 0   1: the counter, the instantaneous power is not supported
 *   fault = NAME FROM TO [VALUE]     several may be given; TO may be inf:
 *     stuck_counter    the counter stands still       counter_reset    it begins again at 0 (TO is not looked at)
 *     no_counter       it is not supported            no_power         nor is the power reading
 *     zero_power       the power reading is 0         frozen_power     it stays what it was
 *     drop [CODE]      every reading fails: 999 (unknown) or this NVML error, such as 10 (timeout)
 *     lost             every reading fails with GPU_IS_LOST (TO is not looked at)
 *     throttle BITS    more clocks event reasons      cap WATTS        a lower limit is in force
 *     other_process PID
 */
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, OPERATING_SYSTEM = 17, INSUFFICIENT_RESOURCES = 23, UNKNOWN = 999
};
enum { FIELD_POWER_INSTANT = 186, SCOPE_GPU = 0, SCOPE_MODULE = 1, TYPE_UNSIGNED_INT = 1, CLOCK_SM = 1 };
enum { MAX_BOARDS = 16, MAX_FAULTS = 32, MAX_LIMITS = 1024, MAX_PROCESSES = 32, NAME_SIZE = 64, PATH_SIZE = 4096 };
enum { STREAM_COUNTER, STREAM_NOISE, STREAM_LATENCY, STREAMS };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; int sensor; int temperature; } Temperature;
typedef struct { unsigned pid; unsigned long long memory; } ProcessV1;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } Process;
typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; } Value;
typedef struct { uint32_t field, scope; int64_t timestamp, latency_us; int type, status; Value value; } FieldValue;

typedef enum {
    STUCK_COUNTER, COUNTER_RESET, NO_COUNTER, NO_POWER, ZERO_POWER, FROZEN_POWER, DROP, LOST, THROTTLE, CAP,
    OTHER_PROCESS, FAULT_KINDS
} FaultKind;
static const struct { const char *name; int least_values, most_values; } FAULTS[FAULT_KINDS] = {
    {"stuck_counter", 0, 0}, {"counter_reset", 0, 0}, {"no_counter", 0, 0}, {"no_power", 0, 0}, {"zero_power", 0, 0},
    {"frozen_power", 0, 0}, {"drop", 0, 1}, {"lost", 0, 0}, {"throttle", 1, 1}, {"cap", 1, 1}, {"other_process", 1, 1},
};

typedef struct { double at_s, power_w, energy_j; } Knot; /* energy_j: since the first knot, without any limit */
typedef struct { FaultKind kind; double from_s, to_s, value; } Fault;
typedef struct { double from_s, watts; } Limit;
typedef struct {
    int number, has_own_knots, knots_count, faults_count, limits_count, processes_count;
    Knot *knots;
    double peak_w;
    Fault faults[MAX_FAULTS];
    Limit limits[MAX_LIMITS]; /* set by calls; before the first, limit_w */
    unsigned processes[MAX_PROCESSES]; /* 0: the process that asks */
    char name[NAME_SIZE];
    double repeat, power_period_s, power_phase_s, power_average_s, power_gain, power_noise_w, counter_period_s,
        counter_phase_s, counter_jitter_s, counter_gain, counter_module, module_extra_w, latency_s, counter_latency_s,
        power_latency_s, latency_jitter, limit_w, default_limit_w, min_limit_w, max_limit_w, may_set_limit, sm_clock_mhz,
        memory_clock_mhz, temperature_c, temperature_slope_c_per_s, throttle, ecc, mig, no_counter, no_instant;
} Board;
typedef struct {
    double is_manual, epoch_s, seed, boards_count, old_driver;
    int order[MAX_BOARDS], order_count;
    char driver[NAME_SIZE], limit_file[PATH_SIZE], *text;
    long limit_file_read; /* bytes of limit_file that are in `limits` */
    Board boards[MAX_BOARDS];
} Machine;
typedef struct { int board, is_slice; } Handle;

/* Numbers of a script: place, default, least and greatest value. */
typedef struct { const char *key; size_t offset; double otherwise, least, most; } Number;
#define MACHINE(key, field, ...) {key, offsetof(Machine, field), __VA_ARGS__}
#define BOARD(key, ...) {#key, offsetof(Board, key), __VA_ARGS__}
static const Number MACHINE_NUMBERS[] = {
    MACHINE("epoch_s", epoch_s, NAN, -1e12, 1e12), MACHINE("seed", seed, 0, 0, 9e15),
    MACHINE("boards", boards_count, 1, 0, MAX_BOARDS), MACHINE("old_driver", old_driver, 0, 0, 1), {0},
};
static const Number BOARD_NUMBERS[] = {
    BOARD(repeat, 0, 0, 1), BOARD(power_period_s, 0, 0, 60), BOARD(power_phase_s, 0, 0, 60),
    BOARD(power_average_s, 0, 0, 60), BOARD(power_gain, 1, 0, 1e3), BOARD(power_noise_w, 0, 0, 1e6),
    BOARD(counter_period_s, 0.1, 1e-6, 60), BOARD(counter_phase_s, 0, 0, 60), BOARD(counter_jitter_s, 0, 0, 60),
    BOARD(counter_gain, 1, 0, 1e3), BOARD(counter_module, 0, 0, 1), BOARD(module_extra_w, 0, 0, 1e6),
    BOARD(latency_s, 0, 0, 60), BOARD(counter_latency_s, -1, -1, 60), BOARD(power_latency_s, -1, -1, 60),
    BOARD(latency_jitter, 0, 0, 1e3), BOARD(limit_w, 700, 1, 1e6), BOARD(default_limit_w, 700, 1, 1e6),
    BOARD(min_limit_w, 200, 1, 1e6), BOARD(max_limit_w, 700, 1, 1e6), BOARD(may_set_limit, 0, 0, 1),
    BOARD(sm_clock_mhz, 1500, 0, 1e6), BOARD(memory_clock_mhz, 2600, 0, 1e6), BOARD(temperature_c, 50, -273, 1e3),
    BOARD(temperature_slope_c_per_s, 0, -1e3, 1e3), BOARD(throttle, 0, 0, 4294967295.0), BOARD(ecc, 1, 0, 1),
    BOARD(mig, 0, 0, 1), BOARD(no_counter, 0, 0, 1), BOARD(no_instant, 0, 0, 1), {0},
};

static Machine *machine; /* NULL until a script was read */
static Handle handles[2][MAX_BOARDS];
static double manual_s;
static uint64_t calls;
static char error[512];
static pthread_mutex_t limits_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- time ---- */

double virtual_nvml_time(void) {
    if (machine && machine->is_manual) return manual_s;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void virtual_nvml_set_time(double at_s) { manual_s = at_s; }

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
    if (machine->is_manual) { manual_s += seconds; return; }
    struct timespec left = {(time_t)seconds, (long)(1e9 * fmod(seconds, 1))};
    nanosleep(&left, NULL);
}

/* A call takes its time; its answer is of the moment that is returned, on the script's clock. */
static double call(const Board *board, double latency_s) {
    if (latency_s < 0) latency_s = board->latency_s;
    latency_s *= 1 + board->latency_jitter * chance(board, STREAM_LATENCY, ++calls);
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
    if (board->repeat && (at_s < 0 || at_s > last->at_s)) {
        double turns = floor(at_s / last->at_s);
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
static void read_limits(void) {
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

/* Limit that was set last before a moment, and when the next one comes. */
static double set_limit_w(const Board *board, double at_s, double *until_s) {
    double watts = board->limit_w;
    *until_s = INFINITY;
    for (int i = 0; i < board->limits_count; i++) {
        if (board->limits[i].from_s <= at_s) watts = board->limits[i].watts;
        else *until_s = fmin(*until_s, board->limits[i].from_s);
    }
    return watts;
}

static double enforced_limit_w(const Board *board, double at_s, double *until_s) {
    double watts = set_limit_w(board, at_s, until_s);
    for (const Fault *fault = board->faults; fault < board->faults + board->faults_count; fault++) {
        if (fault->kind != CAP || fault->to_s <= at_s) continue;
        if (fault->from_s <= at_s) watts = fmin(watts, fault->value);
        *until_s = fmin(*until_s, fault->from_s <= at_s ? fault->to_s : fault->from_s);
    }
    return watts;
}

static double power_w(const Board *board, double at_s) {
    double until_s;
    return fmin(wave_w(board, folded_s(board, at_s)), enforced_limit_w(board, at_s, &until_s));
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

static const Fault *fault_at(const Board *board, FaultKind kind, double at_s) {
    for (const Fault *fault = board->faults; fault < board->faults + board->faults_count; fault++) {
        int lasts = at_s < fault->to_s || kind == LOST || kind == COUNTER_RESET;
        if (fault->kind == kind && fault->from_s <= at_s && lasts) return fault;
    }
    return NULL;
}

static int failure_at(const Board *board, double at_s) {
    const Fault *drop = fault_at(board, DROP, at_s);
    return fault_at(board, LOST, at_s) ? GPU_IS_LOST : drop ? (int)drop->value : SUCCESS;
}

static double counter_tick_s(const Board *board, double turn) {
    double jitter = chance(board, STREAM_COUNTER, (uint64_t)(int64_t)turn) - 0.5;
    return board->counter_phase_s + turn * board->counter_period_s + jitter * board->counter_jitter_s;
}

/* When the counter was renewed last. Jitter moves a renewal by half a period at most, so it is one of three. */
static double last_tick_s(const Board *board, double at_s) {
    double turn = floor((at_s - board->counter_phase_s) / board->counter_period_s) + 1;
    while (counter_tick_s(board, turn) > at_s) turn--;
    return counter_tick_s(board, turn);
}

static double counter_j(const Board *board, double at_s) {
    const Fault *stuck = fault_at(board, STUCK_COUNTER, at_s), *reset = fault_at(board, COUNTER_RESET, at_s);
    double tick_s = last_tick_s(board, stuck ? stuck->from_s : at_s), from_s = reset ? reset->from_s : 0;
    double module_j = board->counter_module ? board->module_extra_w * (tick_s - from_s) : 0;
    return fmax(0, board->counter_gain * (energy_j(board, from_s, tick_s) + module_j));
}

static double mean_power_w(const Board *board, double at_s, double length_s) {
    return energy_j(board, at_s - length_s, at_s) / length_s;
}

static double noise_w(const Board *board, uint64_t index) {
    if (!board->power_noise_w) return 0;
    double radius = sqrt(-2 * log(1 - chance(board, STREAM_NOISE, 2 * index)));
    return board->power_noise_w * radius * cos(2 * M_PI * chance(board, STREAM_NOISE, 2 * index + 1));
}

static unsigned power_reading_mw(const Board *board, double at_s, unsigned scope) {
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

/* ---- reading a script ---- */

__attribute__((format(printf, 2, 3))) static int mistake(int line, const char *format, ...) {
    int used = line ? snprintf(error, sizeof error, "line %d: ", line) : 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error + used, sizeof error - (size_t)used, format, arguments);
    va_end(arguments);
    return UNKNOWN;
}

const char *virtual_nvml_error(void) { return error; }

/* Numbers between blanks or commas; -1 where there is anything else, or more than `most`. */
static int numbers(const char *text, double *values, int most) {
    int count = 0;
    for (char *end; ; text = end) {
        text += strspn(text, " \t,");
        if (!*text) return count;
        int is_self = strncmp(text, "self", 4) == 0;
        double value = is_self ? 0 : strtod(text, &end);
        if (is_self) end = (char *)text + 4;
        if (end == text || count == most || value != value || (*end && !strchr(" \t,", *end))) return -1;
        values[count++] = value;
    }
}

static int read_number(void *owner, const Number *known, const char *key, const char *value, int line) {
    for (; known->key && strcmp(known->key, key); known++) {}
    if (!known->key) return -1;
    double number;
    if (numbers(value, &number, 1) != 1 || number < known->least || number > known->most)
        return mistake(line, "%s must be a number from %g to %g, got '%s'", key, known->least, known->most, value);
    *(double *)((char *)owner + known->offset) = number;
    return SUCCESS;
}

static int read_knot(Board *board, const char *value, int is_own, int line) {
    double pair[2];
    if (numbers(value, pair, 2) != 2 || pair[1] < 0 || !isfinite(pair[0]) || !isfinite(pair[1]))
        return mistake(line, "at must be a time and watts >= 0, got '%s'", value);
    if (is_own && !board->has_own_knots) board->knots_count = 0;
    if (!is_own && board->has_own_knots) return SUCCESS;
    board->has_own_knots = is_own;
    Knot *last = board->knots + board->knots_count - 1, knot = {pair[0], pair[1], 0};
    if (board->knots_count) {
        if (knot.at_s < last->at_s) return mistake(line, "at must not go back in time, got %g after %g", *pair, last->at_s);
        knot.energy_j = last->energy_j + (knot.at_s - last->at_s) * (knot.power_w + last->power_w) / 2;
    }
    if ((board->knots_count & (board->knots_count + 1)) == 0) /* 0, 1, 3, 7 ...: full */
        board->knots = realloc(board->knots, sizeof *board->knots * 2 * (size_t)(board->knots_count + 1));
    board->knots[board->knots_count++] = knot;
    board->peak_w = board->knots_count == 1 ? knot.power_w : fmax(board->peak_w, knot.power_w);
    return SUCCESS;
}

static int read_fault(Board *board, const char *value, int line) {
    char name[32] = "", known[256] = "";
    int used = 0;
    double given[3];
    sscanf(value, "%31s%n", name, &used);
    for (int kind = 0; kind < FAULT_KINDS; kind++) {
        snprintf(known + strlen(known), sizeof known - strlen(known), " %s", FAULTS[kind].name);
        if (strcmp(name, FAULTS[kind].name)) continue;
        int count = numbers(value + used, given, 3) - 2;
        if (count < FAULTS[kind].least_values || count > FAULTS[kind].most_values || given[1] < given[0])
            return mistake(line, "fault %s must have FROM <= TO and %s, got '%s'", name,
                           FAULTS[kind].least_values ? "a value" : FAULTS[kind].most_values ? "perhaps a code" : "no value",
                           value);
        if (board->faults_count == MAX_FAULTS) return mistake(line, "more than %d faults", MAX_FAULTS);
        board->faults[board->faults_count++] = (Fault){(FaultKind)kind, given[0], given[1], count ? given[2] : UNKNOWN};
        return SUCCESS;
    }
    return mistake(line, "unknown fault '%s'; known:%s", name, known);
}

static int read_for_board(Board *board, const char *key, const char *value, int is_own, int line) {
    if (strcmp(key, "at") == 0) return read_knot(board, value, is_own, line);
    if (strcmp(key, "fault") == 0) return read_fault(board, value, line);
    if (strcmp(key, "name") == 0) return snprintf(board->name, sizeof board->name, "%s", value), SUCCESS;
    if (strcmp(key, "processes") == 0) {
        double pids[MAX_PROCESSES - 1]; /* one place is left for a fault's */
        board->processes_count = numbers(value, pids, MAX_PROCESSES - 1);
        if (board->processes_count < 0) return mistake(line, "processes must be numbers or self, got '%s'", value);
        for (int i = 0; i < board->processes_count; i++) board->processes[i] = (unsigned)pids[i];
        return SUCCESS;
    }
    return read_number(board, BOARD_NUMBERS, key, value, line);
}

static int unknown_key(const char *key, int line) {
    char known[2048] = "clock order driver limit_file at fault name processes";
    for (const Number *group = MACHINE_NUMBERS; group; group = group == BOARD_NUMBERS ? NULL : BOARD_NUMBERS)
        for (const Number *number = group; number->key; number++)
            snprintf(known + strlen(known), sizeof known - strlen(known), " %s", number->key);
    (void)mistake(line, "unknown key '%s'; known: ", key);
    strncat(error, known, sizeof error - strlen(error) - 1);
    return UNKNOWN;
}

static int read_line(Machine *into, const char *key, const char *value, int line) {
    int number = -1, used = 0, result;
    if (sscanf(key, "board.%d.%n", &number, &used) == 1 && used) {
        if (number < 0 || number >= MAX_BOARDS) return mistake(line, "a board must be 0 to %d, got '%s'", MAX_BOARDS - 1, key);
        result = read_for_board(&into->boards[number], key + used, value, 1, line);
        return result < 0 ? unknown_key(key, line) : result;
    }
    if (strcmp(key, "clock") == 0) {
        into->is_manual = strcmp(value, "manual") == 0;
        if (into->is_manual || strcmp(value, "monotonic") == 0) return SUCCESS;
        return mistake(line, "clock must be monotonic or manual, got '%s'", value);
    }
    if (strcmp(key, "driver") == 0) return snprintf(into->driver, sizeof into->driver, "%s", value), SUCCESS;
    if (strcmp(key, "limit_file") == 0) return snprintf(into->limit_file, PATH_SIZE, "%s", value), SUCCESS;
    if (strcmp(key, "order") == 0) {
        double order[MAX_BOARDS];
        into->order_count = numbers(value, order, MAX_BOARDS);
        for (int i = 0; i < into->order_count; i++) into->order[i] = (int)order[i];
        return into->order_count < 0 ? mistake(line, "order must be board numbers, got '%s'", value) : SUCCESS;
    }
    result = read_number(into, MACHINE_NUMBERS, key, value, line);
    for (int i = 0; i < MAX_BOARDS && result <= 0 && (i == 0 || result == SUCCESS); i++) {
        int ours = read_for_board(&into->boards[i], key, value, 0, line);
        if (ours < 0) return result < 0 ? unknown_key(key, line) : result;
        result = ours;
    }
    return result;
}

static int check(Machine *read) {
    unsigned seen = 0;
    for (int i = 0; i < read->order_count; i++) seen |= 1U << (read->order[i] & 31);
    if (!read->order_count) while (read->order_count < read->boards_count) read->order[read->order_count] = read->order_count, read->order_count++;
    else if (read->order_count != read->boards_count || seen != (1U << read->order_count) - 1)
        return mistake(0, "order must name each of %g boards once", read->boards_count);
    for (Board *board = read->boards; board < read->boards + (int)read->boards_count; board++) {
        if (!board->knots_count) return mistake(0, "board %d has no power: give it a line such as at = 0 300", board->number);
        if (board->repeat && (board->knots[0].at_s != 0 || board->knots[board->knots_count - 1].at_s <= 0))
            return mistake(0, "board %d repeats: its first point must be at 0 and its last later", board->number);
        if (board->counter_jitter_s > board->counter_period_s)
            return mistake(0, "board %d: counter_jitter_s must be <= counter_period_s", board->number);
        if (board->min_limit_w > board->max_limit_w)
            return mistake(0, "board %d: min_limit_w must be <= max_limit_w", board->number);
    }
    return SUCCESS;
}

static void forget(Machine *old) {
    for (int i = 0; old && i < MAX_BOARDS; i++) free(old->boards[i].knots);
    if (old) free(old->text);
    free(old);
}

static void set_defaults(void *owner, const Number *known) {
    for (; known->key; known++) *(double *)((char *)owner + known->offset) = known->otherwise;
}

static char *trimmed(char *text) {
    text += strspn(text, " \t\r");
    for (char *end = text + strlen(text); end > text && strchr(" \t\r", end[-1]); ) *--end = 0;
    return text;
}

/* A machine from a script; NULL and `error` where that is wrong. */
static Machine *parse(const char *text) {
    Machine *read = calloc(1, sizeof *read);
    set_defaults(read, MACHINE_NUMBERS);
    read->text = strdup(text);
    snprintf(read->driver, sizeof read->driver, "virtual");
    for (int i = 0; i < MAX_BOARDS; i++) {
        read->boards[i].number = i;
        set_defaults(&read->boards[i], BOARD_NUMBERS);
        snprintf(read->boards[i].name, NAME_SIZE, "Virtual GPU %d", i);
    }
    char *copy = strdup(text), *rest = copy;
    int result = SUCCESS, number = 0;
    for (char *line; result == SUCCESS && (line = strsep(&rest, "\n")); ) {
        number++;
        line[strcspn(line, "#")] = 0;
        line = trimmed(line);
        char *equals = strchr(line, '=');
        if (!*line) continue;
        if (!equals) { result = mistake(number, "expected key = value, got '%s'", line); break; }
        *equals = 0;
        result = read_line(read, trimmed(line), trimmed(equals + 1), number);
    }
    free(copy);
    if (result == SUCCESS) result = check(read);
    if (result == SUCCESS) return read;
    forget(read);
    return NULL;
}

/* Whether a script is right (0); else virtual_nvml_error says what is wrong. */
int virtual_nvml_check_script(const char *text) {
    Machine *read = parse(text);
    forget(read);
    return read ? SUCCESS : UNKNOWN;
}

/* Begin a script, even if it is the one that runs. The manual clock starts at 0. */
int virtual_nvml_load_script(const char *text) {
    Machine *read = parse(text);
    if (!read) return UNKNOWN;
    forget(machine);
    machine = read;
    manual_s = 0;
    calls = 0;
    if (machine->epoch_s != machine->epoch_s) machine->epoch_s = virtual_nvml_time();
    for (int i = 0; i < MAX_BOARDS; i++) handles[0][i] = (Handle){i, 0}, handles[1][i] = (Handle){i, 1};
    return SUCCESS;
}

/* ---- NVML ---- */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    const char *path = getenv("VIRTUAL_NVML_SCRIPT");
    if (!path) return machine ? SUCCESS : mistake(0, "VIRTUAL_NVML_SCRIPT must name a script; it is not set");
    FILE *file = fopen(path, "r");
    if (!file) return mistake(0, "cannot read %s", path);
    char *text = NULL;
    size_t size = 0;
    ssize_t length = getdelim(&text, &size, 0, file);
    fclose(file);
    int is_new = !machine || strcmp(machine->text, length < 0 ? "" : text);
    int result = is_new ? virtual_nvml_load_script(length < 0 ? "" : text) : SUCCESS;
    free(text);
    return result;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int result) {
    return result == GPU_IS_LOST ? "GPU is lost" : result == UNKNOWN && error[0] ? error : "virtual error";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "%s", machine->driver);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)machine->boards_count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle **handle) {
    if (index >= machine->boards_count) return INVALID_ARGUMENT;
    *handle = &handles[0][machine->order[index]];
    return SUCCESS;
}

int nvmlDeviceGetUUID(const Handle *handle, char *uuid, unsigned length) {
    snprintf(uuid, length, "%s-00000000-0000-0000-0000-%012d", handle->is_slice ? "MIG" : "GPU", handle->board);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Handle **handle) {
    char known[64];
    for (int board = 0; board < machine->boards_count; board++) {
        for (int slice = 0; slice <= machine->boards[board].mig; slice++) {
            *handle = &handles[slice][board];
            nvmlDeviceGetUUID(*handle, known, sizeof known);
            if (strcmp(uuid, known) == 0) return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(const Handle *slice, Handle **handle) {
    if (!slice->is_slice) return INVALID_ARGUMENT;
    *handle = &handles[0][slice->board];
    return SUCCESS;
}

int nvmlDeviceGetIndex(const Handle *handle, unsigned *index) {
    for (*index = 0; machine->order[*index] != handle->board; ++*index) {}
    return SUCCESS;
}

int nvmlDeviceGetMinorNumber(const Handle *handle, unsigned *number) {
    *number = (unsigned)handle->board;
    return SUCCESS;
}

int nvmlDeviceGetName(const Handle *handle, char *name, unsigned length) {
    snprintf(name, length, "%s", machine->boards[handle->board].name);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(const Handle *handle, Memory *memory) {
    (void)handle;
    *memory = (Memory){.total = 80ULL << 30, .free = 80ULL << 30, .used = 0};
    return SUCCESS;
}

/* Every reading begins so: the call takes its time, a slice has no meter, and a fault may refuse it. */
#define READING(latency)                                              \
    const Board *board = &machine->boards[handle->board];             \
    if (handle->is_slice) return NOT_SUPPORTED;                       \
    read_limits();                                                    \
    double at_s = call(board, latency);                               \
    if (failure_at(board, at_s)) return failure_at(board, at_s)

int nvmlDeviceGetTotalEnergyConsumption(const Handle *handle, unsigned long long *energy_mj) {
    READING(board->counter_latency_s);
    if (board->no_counter || fault_at(board, NO_COUNTER, at_s)) return NOT_SUPPORTED;
    *energy_mj = (unsigned long long)(1e3 * counter_j(board, at_s));
    return SUCCESS;
}

int nvmlDeviceGetFieldValues(const Handle *handle, int count, FieldValue *values) {
    READING(board->power_latency_s);
    for (FieldValue *value = values; value < values + count; value++) {
        int is_known = value->field == FIELD_POWER_INSTANT && !board->no_instant && !fault_at(board, NO_POWER, at_s) &&
                       (value->scope == SCOPE_GPU || (value->scope == SCOPE_MODULE && board->module_extra_w));
        value->status = machine->old_driver ? INVALID_ARGUMENT : is_known ? SUCCESS : NOT_SUPPORTED;
        value->type = TYPE_UNSIGNED_INT;
        value->value.ui = is_known ? power_reading_mw(board, at_s, value->scope) : 0;
    }
    return SUCCESS;
}

/* On recent boards the mean of the last second, which must never stand in for the power of the moment. */
int nvmlDeviceGetPowerUsage(const Handle *handle, unsigned *power_mw) {
    READING(board->power_latency_s);
    *power_mw = (unsigned)(1e3 * board->power_gain * mean_power_w(board, at_s, 1));
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(const Handle *handle, int kind, unsigned *mhz) {
    READING(-1);
    *mhz = (unsigned)(kind == CLOCK_SM ? board->sm_clock_mhz : board->memory_clock_mhz);
    return SUCCESS;
}

int nvmlDeviceGetTemperature(const Handle *handle, int sensor, unsigned *celsius) {
    (void)sensor;
    READING(-1);
    *celsius = (unsigned)fmax(0, round(board->temperature_c + board->temperature_slope_c_per_s * fmax(0, at_s)));
    return SUCCESS;
}

int nvmlDeviceGetTemperatureV(const Handle *handle, Temperature *answer) {
    if (machine->old_driver) return FUNCTION_NOT_FOUND;
    return nvmlDeviceGetTemperature(handle, answer->sensor, (unsigned *)&answer->temperature);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(const Handle *handle, unsigned long long *reasons) {
    READING(-1);
    const Fault *fault = fault_at(board, THROTTLE, at_s);
    *reasons = (unsigned long long)board->throttle | (fault ? (unsigned long long)fault->value : 0);
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(const Handle *handle, unsigned long long *reasons) {
    return machine->old_driver ? FUNCTION_NOT_FOUND : nvmlDeviceGetCurrentClocksThrottleReasons(handle, reasons);
}

int nvmlDeviceGetEnforcedPowerLimit(const Handle *handle, unsigned *limit_mw) {
    READING(-1);
    double until_s;
    *limit_mw = (unsigned)(1e3 * enforced_limit_w(board, at_s, &until_s));
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimit(const Handle *handle, unsigned *limit_mw) {
    READING(-1);
    double until_s;
    *limit_mw = (unsigned)(1e3 * set_limit_w(board, at_s, &until_s));
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementDefaultLimit(const Handle *handle, unsigned *limit_mw) {
    READING(-1);
    *limit_mw = (unsigned)(1e3 * board->default_limit_w);
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimitConstraints(const Handle *handle, unsigned *min_mw, unsigned *max_mw) {
    READING(-1);
    *min_mw = (unsigned)(1e3 * board->min_limit_w);
    *max_mw = (unsigned)(1e3 * board->max_limit_w);
    return SUCCESS;
}

int nvmlDeviceSetPowerManagementLimit(const Handle *handle, unsigned limit_mw) {
    READING(-1);
    double watts = limit_mw / 1e3;
    if (!board->may_set_limit) return NO_PERMISSION;
    if (watts < board->min_limit_w || watts > board->max_limit_w) return INVALID_ARGUMENT;
    Board *changed = &machine->boards[handle->board];
    if (changed->limits_count == MAX_LIMITS) return INSUFFICIENT_RESOURCES;
    if (!machine->limit_file[0]) {
        changed->limits[changed->limits_count++] = (Limit){at_s, watts};
        return SUCCESS;
    }
    FILE *file = fopen(machine->limit_file, "a");
    if (!file) return OPERATING_SYSTEM;
    fprintf(file, "%d %.9f %.3f\n", handle->board, at_s + machine->epoch_s, watts);
    return fclose(file) ? OPERATING_SYSTEM : SUCCESS;
}

int nvmlDeviceGetEccMode(const Handle *handle, unsigned *current, unsigned *pending) {
    READING(-1);
    *current = *pending = (unsigned)board->ecc;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(const Handle *handle, unsigned *current, unsigned *pending) {
    READING(-1);
    *current = *pending = (unsigned)board->mig;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(const Handle *handle, unsigned *count, Process *processes) {
    READING(-1);
    unsigned pids[MAX_PROCESSES], found = 0, room = *count;
    for (; found < (unsigned)board->processes_count; found++)
        pids[found] = board->processes[found] ? board->processes[found] : (unsigned)getpid();
    const Fault *other = fault_at(board, OTHER_PROCESS, at_s);
    if (other) pids[found++] = (unsigned)other->value;
    *count = found;
    if (found > room) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < found; i++) processes[i] = (Process){pids[i], 1ULL << 30, 0xFFFFFFFF, 0xFFFFFFFF};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(const Handle *handle, unsigned *count, Process *processes) {
    return nvmlDeviceGetComputeRunningProcesses_v3(handle, count, processes);
}

int nvmlDeviceGetComputeRunningProcesses(const Handle *handle, unsigned *count, ProcessV1 *processes) {
    Process found[MAX_PROCESSES];
    unsigned room = *count;
    *count = MAX_PROCESSES;
    int result = nvmlDeviceGetComputeRunningProcesses_v3(handle, count, found);
    if (result != SUCCESS || *count > room) return result != SUCCESS ? result : INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < *count; i++) processes[i] = (ProcessV1){found[i].pid, found[i].memory};
    return SUCCESS;
}
