// settings_json.h: writes and reads the settings that a run saves in its log and its checkpoints.
//
//   settings_write(w, key, s)          one object, a member for each flag that has a value
//   settings_read(s, object, source)   reads them back, with the checks of the command line
#ifndef LLMC_SETTINGS_JSON_H
#define LLMC_SETTINGS_JSON_H

#include "command_line.h"
#include "json.h"

// The words of a set, separated by commas.
static inline void set_words(const char *words, unsigned bits, char text[256]) {
    char word[64];
    text[0] = '\0';
    for (; bits != 0; bits >>= 1) {
        words = next_word(words, word);
        if ((bits & 1) == 0) { continue; }
        snprintf(text + strlen(text), 256 - strlen(text), "%s%s", text[0] == '\0' ? "" : ",", word);
    }
}

static inline void settings_write_list(JsonWriter *w, const char *name, const TextList *list) {
    json_begin_array(w, name);
    for (size_t i = 0; i < list->count; i++) { json_string(w, NULL, list->items[i]); }
    json_end_array(w);
}

// One member, or none if the flag has no value.
static inline void settings_write_value(JsonWriter *w, const Settings *s, const Flag *flag) {
    const char *field = (const char *)s + flag->offset;
    const int word = flag->type == FLAG_SWITCH || flag->type == FLAG_CHOICE ? *(const int *)field : UNSET;
    const int64_t integer = flag->type == FLAG_INTEGER ? *(const int64_t *)field : -1;
    const double real = flag->type == FLAG_REAL ? *(const double *)field : NAN;
    const char *text = flag->type == FLAG_TEXT ? *(char *const *)field : NULL;
    char words[256] = "";
    switch (flag->type) {
    case FLAG_HEADING: break;
    case FLAG_SWITCH:
        if (word != UNSET) { json_bool(w, flag->name, word == ON); }
        break;
    case FLAG_INTEGER:
        if (integer >= 0) { json_integer(w, flag->name, integer); }
        break;
    case FLAG_REAL:
        if (!isnan(real)) { json_number(w, flag->name, real); }
        break;
    case FLAG_CHOICE:
        word_at(flag->values, word, words);
        if (word != UNSET) { json_string(w, flag->name, words); }
        break;
    case FLAG_SET:
        set_words(flag->values, *(const unsigned *)field, words);
        json_string(w, flag->name, words);
        break;
    case FLAG_TEXT:
        if (text != NULL) { json_string(w, flag->name, text); }
        break;
    case FLAG_LIST: settings_write_list(w, flag->name, (const TextList *)field); break;
    }
}

static inline void settings_write(JsonWriter *w, const char *key, const Settings *s) {
    json_begin_object(w, key);
    for (int i = 0; i < FLAGS; i++) {
        unsigned bits = flags[i].commands;
        if ((bits & TRAIN) != 0 && (bits & ONCE) == 0) { settings_write_value(w, s, &flags[i]); }
    }
    json_end_object(w);
}

// One saved value. Older runs saved null for a value that was not given.
static inline bool settings_read_value(Settings *s, const Flag *flag, const Json *value, Error *err) {
    char number[64];
    switch (value->type) {
    case JSON_NULL: return true;
    case JSON_BOOL: return flag_set(s, flag, value->boolean ? "on" : "off", err);
    case JSON_NUMBER:
        snprintf(number, sizeof number, "%.17g", value->number);
        return flag_set(s, flag, number, err);
    case JSON_STRING: return flag_set(s, flag, value->string, err);
    case JSON_ARRAY:
        if (flag->type != FLAG_LIST) {
            return fail(err, "--%s: found a list, expected one value", flag->name);
        }
        for (const Json *item = json_first(value); item != NULL; item = json_next(item)) {
            if (!settings_read_value(s, flag, item, err)) { return false; }
        }
        return true;
    case JSON_OBJECT: break;
    }
    return fail(err, "--%s: found an object, expected a value", flag->name);
}

// Fills *s, which settings_init has prepared for train, from what settings_write wrote. Members that are not
// flags of this program are named all together: a newer program may have written them.
static inline bool settings_read(Settings *s, const Json *object, const char *source, Error *err) {
    char unknown[512] = "";
    if (object == NULL || object->type != JSON_OBJECT) {
        return fail(err, "%s: the settings of the run are missing", source);
    }
    for (const Json *member = json_first(object); member != NULL; member = json_next(member)) {
        int row = flag_find(member->key, member->key_length, TRAIN);
        if (row < 0) {
            snprintf(unknown + strlen(unknown), sizeof unknown - strlen(unknown), "%s\"%.60s\"",
                     unknown[0] != '\0' ? ", " : "", member->key);
        } else if (!settings_read_value(s, &flags[row], member, err)) {
            return fail(err, "%s: %s", source, err->text);
        }
    }
    if (unknown[0] == '\0') { return true; }
    return fail(err,
                "%s: has settings that this program does not know: %s\n"
                "A newer version of the program saved them; resume the run with that version.",
                source, unknown);
}

#endif
