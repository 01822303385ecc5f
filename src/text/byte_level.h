/* GPT-2's byte-level alphabet, in which tokenizer.json spells tokens: every byte is named by one character, a printable Latin-1 byte by
 * itself, the other 68, in order, by U+0100 and up. */
#ifndef FATHOM_TEXT_BYTE_LEVEL_H
#define FATHOM_TEXT_BYTE_LEVEL_H

#include <stdint.h>

/* The character that names the byte: below U+0144. */
uint32_t byte_level_character(unsigned char byte);

#endif
