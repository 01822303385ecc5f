/* GPT-2's byte-level alphabet: see byte_level.h. */
#include "text/byte_level.h"

uint32_t byte_level_character(unsigned char byte)
{
    if (byte <= ' ') /* 33 bytes without a name of their own, then 34 from 0x7F, then the soft hyphen */
        return 0x100u + byte;
    if (byte >= 0x7F && byte <= 0xA0)
        return 0x121u + (byte - 0x7Fu);
    return byte == 0xAD ? 0x143 : byte;
}
