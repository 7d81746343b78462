// words.h: lists of words a|b|c, and the word that a misspelt one most resembles.
//
//   find_word(words, name, nearest)   which of the words it is, or the one nearest to it
//   next_word, word_at                the words one by one
//   edit_distance(a, b)               how far two words are apart
#ifndef LLMC_WORDS_H
#define LLMC_WORDS_H

#include "utils.h"

// Levenshtein's distance: the insertions, deletions and replacements that turn a into b. Of longer words only
// the first 63 characters count.
static inline size_t edit_distance(const char *a, const char *b) {
    size_t row[64], n = strlen(b) < 63 ? strlen(b) : 63;
    for (size_t j = 0; j <= n; j++) { row[j] = j; }
    for (size_t i = 1; a[i - 1] != '\0' && i < 64; i++) {
        size_t diagonal = row[0];  // of the row above
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) { best = row[j] + 1; }
            if (row[j - 1] + 1 < best) { best = row[j - 1] + 1; }
            row[j] = best;
        }
    }
    return row[n];
}

// Copies the next of the words a|b|c to `word` and returns what follows it, NULL after the last.
static inline const char *next_word(const char *words, char word[64]) {
    size_t length = strcspn(words, "|");
    snprintf(word, 64, "%.*s", (int)length, words);
    return words[length] == '|' ? words + length + 1 : NULL;
}

// The i-th of the words.
static inline void word_at(const char *words, int i, char word[64]) {
    for (; i >= 0 && words != NULL; i--) { words = next_word(words, word); }
}

// Which of the words this is, or -1; then `nearest` is the word most like it.
static inline int find_word(const char *words, const char *name, char nearest[64]) {
    size_t least = SIZE_MAX;
    char word[64];
    for (int i = 0; words != NULL; i++) {
        words = next_word(words, word);
        size_t distance = edit_distance(name, word);
        if (distance == 0) { return i; }
        if (distance < least) {
            least = distance;
            memcpy(nearest, word, sizeof word);
        }
    }
    return -1;
}

#endif
