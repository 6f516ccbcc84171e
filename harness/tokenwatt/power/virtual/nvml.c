/* The calls of NVML, with the names and layouts that its bindings use, answered by the machine of a script. */
#include "virtual_nvml.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIELD_POWER_INSTANT = 186, TYPE_UNSIGNED_INT = 1, CLOCK_SM = 1 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; int sensor; int temperature; } Temperature;
typedef struct { unsigned pid; unsigned long long memory; } ProcessV1;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } Process;
typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; } Value;
typedef struct { uint32_t field, scope; int64_t timestamp, latency_us; int type, status; Value value; } FieldValue;

typedef struct { int board, is_slice; } Handle;

Machine *machine;
static Handle handles[2][MAX_BOARDS]; /* boards, and their slices */
static int is_given; /* the script came by a call: no file is looked for */

static int begin(const char *text) {
    Machine *read = parse_script(text);
    if (!read) return UNKNOWN;
    forget(machine);
    machine = read;
    if (machine->epoch_s != machine->epoch_s) machine->epoch_s = virtual_nvml_time();
    for (int i = 0; i < MAX_BOARDS; i++) handles[0][i] = (Handle){i, 0}, handles[1][i] = (Handle){i, 1};
    return SUCCESS;
}

/* Begin a script, even if it is the one that runs. The manual clock starts at 0. */
int virtual_nvml_load_script(const char *text) {
    is_given = 1;
    return begin(text);
}

static int failure_at(const Board *board, double at_s) {
    const Fault *drop = fault_at(board, DROP, at_s);
    return fault_at(board, LOST, at_s) ? GPU_IS_LOST : drop ? (int)drop->value : SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (is_given) return SUCCESS;
    const char *path = getenv("VIRTUAL_NVML_SCRIPT");
    if (!path) return mistake(0, "VIRTUAL_NVML_SCRIPT must name a script; it is not set");
    FILE *file = fopen(path, "r");
    if (!file) return mistake(0, "cannot read %s", path);
    char *text = NULL;
    size_t size = 0;
    ssize_t length = getdelim(&text, &size, 0, file);
    fclose(file);
    int is_new = !machine || strcmp(machine->text, length < 0 ? "" : text);
    int result = is_new ? begin(length < 0 ? "" : text) : SUCCESS;
    free(text);
    return result;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int result) {
    return result == UNKNOWN && !machine ? virtual_nvml_error() : "virtual error";
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
#define READING(latency)                                    \
    const Board *board = &machine->boards[handle->board];   \
    if (handle->is_slice) return NOT_SUPPORTED;             \
    read_limits();                                          \
    double at_s = call(board, latency);                     \
    if (failure_at(board, at_s)) return failure_at(board, at_s)

/* A call that answers one number, or two. */
#define ANSWERS(name, latency, value)                       \
    int name(const Handle *handle, unsigned *answer) {      \
        READING(latency);                                   \
        *answer = (unsigned)round(value);                   \
        return SUCCESS;                                     \
    }
#define ANSWERS_TWO(name, first_value, second_value)                          \
    int name(const Handle *handle, unsigned *first, unsigned *second) {       \
        READING(-1);                                                          \
        *first = (unsigned)round(first_value);                                \
        *second = (unsigned)round(second_value);                              \
        return SUCCESS;                                                       \
    }

/* On recent boards the mean of the last second, which must never stand in for the power of the moment. */
ANSWERS(nvmlDeviceGetPowerUsage, board->power_latency_s, 1e3 * board->power_gain * mean_power_w(board, at_s, 1))
ANSWERS(nvmlDeviceGetEnforcedPowerLimit, -1, 1e3 * enforced_limit_w(board, at_s, NULL))
ANSWERS(nvmlDeviceGetPowerManagementLimit, -1, 1e3 * set_limit_w(board, at_s, NULL))
ANSWERS(nvmlDeviceGetPowerManagementDefaultLimit, -1, 1e3 * board->default_limit_w)
ANSWERS_TWO(nvmlDeviceGetPowerManagementLimitConstraints, 1e3 * board->min_limit_w, 1e3 * board->max_limit_w)
ANSWERS_TWO(nvmlDeviceGetEccMode, board->ecc, board->ecc)
ANSWERS_TWO(nvmlDeviceGetMigMode, board->mig, board->mig)

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
