/*
 * A libnvidia-ml.so.1 whose boards draw exactly known power, for machines without a GPU, scripted by a text.
 *
 * The script is the text given to virtual_nvml_load_script, or the file that VIRTUAL_NVML_SCRIPT names at nvmlInit. A
 * file that has not changed is not begun anew: counters and limits live on, as those of a real board do when a process
 * starts NVML again. With a mistake in it nvmlInit answers NVML_ERROR_UNKNOWN; virtual_nvml_error says what is wrong.
 *
 * A script has lines of `key = value`; `#` begins a comment. Of two lines with one key the later counts. All times are
 * seconds since the epoch.
 *
 * The machine:
 *   clock = monotonic      CLOCK_MONOTONIC, which is Python's time.monotonic; or
 *           manual         moved by virtual_nvml_set_time and the latency of calls: for one thread, exactly repeatable
 *   epoch_s = 12.5         time 0 of this script on that clock; by default the first nvmlInit, with a manual clock 0
 *   seed = 1               of noise and jitter
 *   boards = 1             how many, from 0 to 16
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
 *   counter_jitter_s = 0   each time early or late by up to half of this,
 *   counter_walk_s = 0     and each spacing longer or shorter by up to half of this, which moves all later renewals
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
#pragma once
#include <stdint.h>

enum {
    SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, OPERATING_SYSTEM = 17, INSUFFICIENT_RESOURCES = 23, UNKNOWN = 999
};
enum { SCOPE_GPU = 0, SCOPE_MODULE = 1 };
enum { MAX_BOARDS = 16, MAX_FAULTS = 32, MAX_LIMITS = 1024, MAX_PROCESSES = 32, NAME_SIZE = 64, PATH_SIZE = 4096 };

typedef enum {
    STUCK_COUNTER, COUNTER_RESET, NO_COUNTER, NO_POWER, ZERO_POWER, FROZEN_POWER, DROP, LOST, THROTTLE, CAP,
    OTHER_PROCESS, FAULT_KINDS
} FaultKind;
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
    double repeat, power_period_s, power_phase_s, power_average_s, power_gain, power_noise_w;
    double counter_period_s, counter_phase_s, counter_jitter_s, counter_walk_s, counter_gain, counter_module;
    double module_extra_w;
    double latency_s, counter_latency_s, power_latency_s, latency_jitter;
    double limit_w, default_limit_w, min_limit_w, max_limit_w, may_set_limit;
    double sm_clock_mhz, memory_clock_mhz, temperature_c, temperature_slope_c_per_s, throttle, ecc, mig;
    double no_counter, no_instant;
} Board;
typedef struct {
    double is_manual, manual_s, epoch_s, seed, boards_count, old_driver;
    uint64_t calls; /* so far */
    int order[MAX_BOARDS], order_count;
    char driver[NAME_SIZE], limit_file[PATH_SIZE], *text;
    long limit_file_read; /* bytes of limit_file that are in `limits` */
    Board boards[MAX_BOARDS];
} Machine;

extern Machine *machine; /* what is played; NULL until a script was read */

/* script.c */
Machine *parse_script(const char *text); /* NULL where it is wrong: virtual_nvml_error says how */
void forget(Machine *old);
int mistake(int line, const char *format, ...) __attribute__((format(printf, 2, 3))); /* UNKNOWN */
const char *virtual_nvml_error(void);
int virtual_nvml_check_script(const char *text); /* 0 where it is right */

/* instruments.c; moments are on the script's clock, but for those of virtual_nvml_ */
double virtual_nvml_time(void);
void virtual_nvml_set_time(double at_s);
double virtual_nvml_true_energy_j(int board, double from_s, double to_s);
double call(const Board *board, double latency_s);
void read_limits(void);
double set_limit_w(const Board *board, double at_s, double *until_s); /* until_s: when the next comes; may be NULL */
double enforced_limit_w(const Board *board, double at_s, double *until_s);
double mean_power_w(const Board *board, double at_s, double length_s);
const Fault *fault_at(const Board *board, FaultKind kind, double at_s);
double counter_j(const Board *board, double at_s);
unsigned power_reading_mw(const Board *board, double at_s, unsigned scope);

/* nvml.c */
int virtual_nvml_load_script(const char *text);
