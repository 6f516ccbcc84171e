/* Reads a script into a machine. */
#include "virtual_nvml.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of a script: place, default, least and greatest value, whether it must be whole. */
typedef struct { const char *key; size_t offset; double otherwise, least, most; int is_whole; } Number;
#define MACHINE(key, field, ...) {key, offsetof(Machine, field), __VA_ARGS__}
#define BOARD(key, otherwise, least, most) {#key, offsetof(Board, key), otherwise, least, most, 0}
#define FLAG(key, otherwise) {#key, offsetof(Board, key), otherwise, 0, 1, 1}
static const Number MACHINE_NUMBERS[] = {
    MACHINE("epoch_s", epoch_s, NAN, -1e12, 1e12, 0), MACHINE("seed", seed, 0, 0, 9e15, 1),
    MACHINE("boards", boards_count, 1, 0, MAX_BOARDS, 1), MACHINE("old_driver", old_driver, 0, 0, 1, 1), {0},
};
static const Number BOARD_NUMBERS[] = {
    FLAG(repeat, 0), BOARD(power_period_s, 0, 0, 60), BOARD(power_phase_s, 0, 0, 60),
    BOARD(power_average_s, 0, 0, 60), BOARD(power_gain, 1, 0, 1e3), BOARD(power_noise_w, 0, 0, 1e6),
    BOARD(counter_period_s, 0.1, 1e-6, 60), BOARD(counter_phase_s, 0, 0, 60), BOARD(counter_jitter_s, 0, 0, 60),
    BOARD(counter_walk_s, 0, 0, 60), BOARD(counter_gain, 1, 0, 1e3), FLAG(counter_module, 0),
    BOARD(module_extra_w, 0, 0, 1e6),
    BOARD(latency_s, 0, 0, 60), BOARD(counter_latency_s, -1, -1, 60), BOARD(power_latency_s, -1, -1, 60),
    BOARD(latency_jitter, 0, 0, 1e3), BOARD(limit_w, 700, 1, 1e6), BOARD(default_limit_w, 700, 1, 1e6),
    BOARD(min_limit_w, 200, 1, 1e6), BOARD(max_limit_w, 700, 1, 1e6), FLAG(may_set_limit, 0),
    BOARD(sm_clock_mhz, 1500, 0, 1e6), BOARD(memory_clock_mhz, 2600, 0, 1e6), BOARD(temperature_c, 50, -273, 1e3),
    BOARD(temperature_slope_c_per_s, 0, -1e3, 1e3), {"throttle", offsetof(Board, throttle), 0, 0, UINT32_MAX, 1},
    FLAG(ecc, 1), FLAG(mig, 0), FLAG(no_counter, 0), FLAG(no_instant, 0), {0},
};
/* In the order of FaultKind. */
static const struct { const char *name; int least_values, most_values; } FAULTS[FAULT_KINDS] = {
    {"stuck_counter", 0, 0}, {"counter_reset", 0, 0}, {"no_counter", 0, 0}, {"no_power", 0, 0}, {"zero_power", 0, 0},
    {"frozen_power", 0, 0}, {"drop", 0, 1}, {"lost", 0, 0}, {"throttle", 1, 1}, {"cap", 1, 1}, {"other_process", 1, 1},
};

static char error[2048];

int mistake(int line, const char *format, ...) {
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

/* 0, UNKNOWN for a mistake in the value, or -1 for a key that is not among the known; as read_for_board. */
static int read_number(void *owner, const Number *known, const char *key, const char *value, int line) {
    for (; known->key && strcmp(known->key, key); known++) {}
    if (!known->key) return -1;
    double number;
    if (numbers(value, &number, 1) != 1 || number < known->least || number > known->most ||
        (known->is_whole && number != floor(number)))
        return mistake(line, "%s must be a %snumber from %.10g to %.10g, got '%s'", key,
                       known->is_whole ? "whole " : "", known->least, known->most, value);
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
    Knot knot = {pair[0], pair[1], 0};
    if (board->knots_count) {
        const Knot *last = &board->knots[board->knots_count - 1];
        if (knot.at_s < last->at_s)
            return mistake(line, "at must not go back in time, got %g after %g", knot.at_s, last->at_s);
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
            return mistake(line, "fault must be NAME FROM TO%s, FROM <= TO, got '%s'",
                           FAULTS[kind].least_values ? " VALUE" : FAULTS[kind].most_values ? " [CODE]" : "", value);
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
    char known[1024] = "at clock driver fault limit_file name order processes";
    for (const Number *group = MACHINE_NUMBERS; group; group = group == BOARD_NUMBERS ? NULL : BOARD_NUMBERS)
        for (const Number *number = group; number->key; number++)
            snprintf(known + strlen(known), sizeof known - strlen(known), " %s", number->key);
    return mistake(line, "unknown key '%s'; known: %s", key, known);
}

static int read_line(Machine *into, const char *key, const char *value, int line) {
    int number = -1, used = 0, result;
    if (sscanf(key, "board.%d.%n", &number, &used) == 1 && used) {
        if (number < 0 || number >= MAX_BOARDS)
            return mistake(line, "a board must be 0 to %d, got '%s'", MAX_BOARDS - 1, key);
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
    if (result >= 0) return result;
    result = SUCCESS;
    for (int i = 0; i < MAX_BOARDS && result == SUCCESS; i++)
        result = read_for_board(&into->boards[i], key, value, 0, line);
    return result < 0 ? unknown_key(key, line) : result;
}

static int check(Machine *read) {
    int count = (int)read->boards_count;
    unsigned seen = 0;
    for (int i = 0; i < count && !read->order_count; i++) read->order[i] = i;
    for (int i = 0; i < count; i++) seen |= read->order[i] >= 0 && read->order[i] < count ? 1U << read->order[i] : 0;
    if ((read->order_count && read->order_count != count) || seen != (1U << count) - 1)
        return mistake(0, "order must name each of %d boards once", count);
    for (Board *board = read->boards; board < read->boards + count; board++) {
        if (!board->knots_count)
            return mistake(0, "board %d has no power: give it a line such as at = 0 300", board->number);
        if (board->repeat && (board->knots[0].at_s != 0 || board->knots[board->knots_count - 1].at_s <= 0))
            return mistake(0, "board %d repeats: its first point must be at 0 and its last later", board->number);
        if (board->counter_jitter_s > board->counter_period_s)
            return mistake(0, "board %d: counter_jitter_s must be <= counter_period_s", board->number);
        if (board->counter_jitter_s + board->counter_walk_s / 2 > board->counter_period_s)
            return mistake(0, "board %d: counter_walk_s must be <= 2 * (counter_period_s - counter_jitter_s)",
                           board->number);
        if (board->min_limit_w > board->max_limit_w)
            return mistake(0, "board %d: min_limit_w must be <= max_limit_w", board->number);
    }
    return SUCCESS;
}

void forget(Machine *old) {
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

Machine *parse_script(const char *text) {
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

int virtual_nvml_check_script(const char *text) {
    Machine *read = parse_script(text);
    forget(read);
    return read ? SUCCESS : UNKNOWN;
}
