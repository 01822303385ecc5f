/* UTF-8, and what Unicode says of characters, as far as tokenizers ask. */
#ifndef FATHOM_TEXT_UNICODE_H
#define FATHOM_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Bytes of the longest beginning that is valid UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF. */
size_t utf8_valid(const char *text, size_t bytes);
/* Bytes of the character that starts with this byte; 1 for a byte that starts none. */
size_t utf8_length(unsigned char first);
/* The character at text, which is valid UTF-8. */
uint32_t utf8_decode(const char *text);
/* Writes 1 to 4 bytes, returns their number. */
size_t utf8_encode(uint32_t code, char out[4]);
/* Bytes at the end that begin a character and wait for the rest of it: 0 to 3. */
size_t utf8_unfinished(const char *text, size_t bytes);

/* White_Space, which is what \s means in tokenizers' patterns. */
bool unicode_is_space(uint32_t code);
/* What \w means for added tokens: Alphabetic, Mark, decimal digits, connecting punctuation, joiners. */
bool unicode_is_word(uint32_t code);

/* The first character of its full case folding: of S it is s, and of U+00DF, too. */
uint32_t unicode_folded(uint32_t code);
/* Characters whose folding has several, and the first two of these: U+00DF has s and s. */
typedef struct unicode_folding {
    uint32_t code, first, second;
} unicode_folding;
enum { UNICODE_FOLDINGS_MOST = 128 };
size_t unicode_foldings(unicode_folding out[UNICODE_FOLDINGS_MOST]);

typedef struct text_buffer {
    char *data;
    size_t size, capacity;
} text_buffer;
fathom_status text_buffer_reserve(text_buffer *b, size_t more, fathom_error *err);
fathom_status text_buffer_add(text_buffer *b, const char *text, size_t bytes, fathom_error *err);
void text_buffer_free(text_buffer *b);

/* Appends the text, valid UTF-8, in Normalization Form C. */
fathom_status unicode_nfc(const char *text, size_t bytes, text_buffer *out, fathom_error *err);

#endif
