/*
 * A libnvidia-ml.so.1 whose boards draw exactly known power, for machines without a GPU.
 *
 * Board g draws (g + 1) * (BASE_W + AMPLITUDE_W * sin(2 pi t / PERIOD_S)) watts at time t of CLOCK_MONOTONIC (Python's
 * time.monotonic). Its counter is the exact integral from t = 0, renewed every TICK_S; board g ticks g * TICK_S / 3 late.
 *
 * Settings, environment variables read at nvmlInit, each with the prefix VIRTUAL_NVML_:
 *   BASE_W AMPLITUDE_W PERIOD_S TICK_S   the waveform, as above
 *   GPUS          number of boards
 *   BIAS          the power reading is this many times the truth
 *   THROTTLE      bits of the clocks event reasons
 *   NO_COUNTER    1: the energy counter is not supported
 *   NO_INSTANT    1: the instantaneous power is not supported
 *   OLD_DRIVER    1: the field is unknown, and so are the calls that replaced deprecated ones
 *   LOST          1: every reading fails with GPU_IS_LOST
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15 };
enum { FIELD_POWER_INSTANT = 186, CLOCK_SM = 1, MAX_GPUS = 16 };

typedef struct { int index; } Board;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; int sensor; int temperature; } Temperature;
typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; } Value;
typedef struct { uint32_t field, scope; int64_t timestamp, latency_us; int type, status; Value value; } FieldValue;

static double base_w, amplitude_w, period_s, tick_s, bias;
static int gpus, throttle, no_counter, no_instant, old_driver, lost;
static Board boards[MAX_GPUS];

static double setting(const char *name, double otherwise) {
    char full[64];
    snprintf(full, sizeof full, "VIRTUAL_NVML_%s", name);
    const char *text = getenv(full);
    return text ? atof(text) : otherwise;
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double power_w(const Board *board, double t) {
    return (board->index + 1) * (base_w + amplitude_w * sin(2 * M_PI * t / period_s));
}

static double energy_j(const Board *board, double t) {
    return (board->index + 1) * (base_w * t + amplitude_w * period_s / (2 * M_PI) * (1 - cos(2 * M_PI * t / period_s)));
}

static void uuid_of(const Board *board, char *text, unsigned length) {
    snprintf(text, length, "GPU-00000000-0000-0000-0000-%012d", board->index);
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    base_w = setting("BASE_W", 300);
    amplitude_w = setting("AMPLITUDE_W", 0);
    period_s = setting("PERIOD_S", 1);
    tick_s = setting("TICK_S", 0.1);
    bias = setting("BIAS", 1);
    gpus = (int)fmin(setting("GPUS", 1), MAX_GPUS);
    throttle = (int)setting("THROTTLE", 0);
    no_counter = (int)setting("NO_COUNTER", 0);
    no_instant = (int)setting("NO_INSTANT", 0);
    old_driver = (int)setting("OLD_DRIVER", 0);
    lost = (int)setting("LOST", 0);
    for (int index = 0; index < MAX_GPUS; index++) boards[index].index = index;
    return SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int result) { return result == GPU_IS_LOST ? "GPU is lost" : "virtual error"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "virtual");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)gpus;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Board **board) {
    if (index >= (unsigned)gpus) return INVALID_ARGUMENT;
    *board = &boards[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Board **board) {
    char known[64];
    for (int index = 0; index < gpus; index++) {
        uuid_of(&boards[index], known, sizeof known);
        if (strcmp(uuid, known) == 0) return nvmlDeviceGetHandleByIndex_v2((unsigned)index, board);
    }
    return NOT_FOUND;
}

int nvmlDeviceGetName(const Board *board, char *name, unsigned length) {
    snprintf(name, length, "Virtual GPU %d", board->index);
    return SUCCESS;
}

int nvmlDeviceGetUUID(const Board *board, char *uuid, unsigned length) {
    uuid_of(board, uuid, length);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(const Board *board, Memory *memory) {
    (void)board;
    *memory = (Memory){.total = 80ULL << 30, .free = 80ULL << 30, .used = 0};
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(const Board *board, unsigned long long *energy_mj) {
    if (lost) return GPU_IS_LOST;
    if (no_counter) return NOT_SUPPORTED;
    double late_s = board->index * tick_s / 3;
    double ticked_s = floor((now_s() - late_s) / tick_s) * tick_s + late_s;
    *energy_mj = (unsigned long long)(1e3 * energy_j(board, ticked_s));
    return SUCCESS;
}

int nvmlDeviceGetFieldValues(const Board *board, int count, FieldValue *values) {
    if (lost) return GPU_IS_LOST;
    for (int i = 0; i < count; i++) {
        values[i].status = old_driver ? INVALID_ARGUMENT
                           : no_instant || values[i].field != FIELD_POWER_INSTANT ? NOT_SUPPORTED : SUCCESS;
        values[i].type = 1; /* NVML_VALUE_TYPE_UNSIGNED_INT */
        values[i].value.ui = (unsigned)(1e3 * bias * power_w(board, now_s()));
    }
    return SUCCESS;
}

/* The 1-s average that must never stand in for instantaneous power: absurd, so that a test would notice. */
int nvmlDeviceGetPowerUsage(const Board *board, unsigned *power_mw) {
    (void)board;
    *power_mw = 999999999;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(const Board *board, int kind, unsigned *mhz) {
    (void)board;
    *mhz = kind == CLOCK_SM ? 1500 : 2600;
    return SUCCESS;
}

int nvmlDeviceGetTemperatureV(const Board *board, Temperature *answer) {
    if (old_driver) return FUNCTION_NOT_FOUND;
    answer->temperature = 50 + board->index;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(const Board *board, int sensor, unsigned *celsius) {
    (void)sensor;
    *celsius = 50 + (unsigned)board->index;
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(const Board *board, unsigned *limit_mw) {
    (void)board;
    *limit_mw = 700000;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(const Board *board, unsigned long long *reasons) {
    (void)board;
    *reasons = (unsigned long long)throttle;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(const Board *board, unsigned long long *reasons) {
    return old_driver ? FUNCTION_NOT_FOUND : nvmlDeviceGetCurrentClocksThrottleReasons(board, reasons);
}
