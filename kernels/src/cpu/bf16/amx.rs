//! AMX's tiles: Intel's Xeons since 2023. Their intrinsics are not stable, so this is assembly.

use std::arch::asm;
use std::marker::PhantomData;

use super::panel::{Line, PANEL, TILE};
use super::vectors::Vectors;

/// The proof that this processor has AMX's tiles and their bf16 products, and AVX-512 with its own, and that the system lets this process use them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amx(());

impl Amx {
    pub(super) fn get(_: Vectors) -> Option<Self> {
        Self::permitted().then_some(Self(()))
    }

    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        /// `ARCH_REQ_XCOMP_PERM` of Linux' `asm/prctl.h`, since 5.16.
        const REQUEST: libc::c_long = 0x1023;
        /// The number of the state that holds the tiles' data.
        const TILE_DATA: libc::c_long = 18;
        /// AMX-BF16 and AMX-TILE.
        const BOTH: u32 = 1 << 22 | 1 << 24;
        let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BOTH == BOTH;
        // SAFETY: the call takes two numbers and touches no memory of this process. A system that does not know it, or refuses, says so.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0
    }

    /// How to ask other systems is not known here.
    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }

    /// The tiles of this thread, made ready. While they are there, the thread must run no task that makes its own: it waits for no other thread.
    pub(super) fn on_this_thread(self) -> Tiles {
        // SAFETY: an `Amx` is there only where the processor has tiles and the system lets them be used; these 64 bytes configure them. Compiled code
        // uses none.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, readonly, preserves_flags));
        }
        Tiles { _here: PhantomData }
    }
}

/// Of all eight tiles.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// Each is of 16 lines of 64 bytes.
static WHOLE: Configuration = {
    let (mut bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        bytes[tile] = 64;
        rows[tile] = 16;
        tile += 1;
    }
    Configuration {
        palette: 1,
        start: 0,
        reserved: [0; 14],
        bytes,
        rows,
    }
};

/// The tiles of one thread, made ready.
pub(super) struct Tiles {
    _here: PhantomData<*const ()>,
}

impl Tiles {
    /// The product of two panels, as [`Multiplier`](super::unit::Multiplier) has it.
    ///
    /// # Safety
    /// Each half holds `tiles` tiles, at least one. At `out` 32 rows of 32 floats, `stride` apart, may be written, and read
    /// if they are to be added to.
    #[inline]
    pub(super) unsafe fn multiply(
        &self,
        left: [*const Line; 2],
        right: [*const Line; 2],
        tiles: usize,
        out: *mut f32,
        stride: usize,
        add: bool,
    ) {
        // SAFETY: the tiles are configured. The loop reads a tile of 1024 bytes from each of the four halves, `tiles` times, one after the other. The begin reads and the end writes
        // four quarters of the 32 rows, each 16 rows of 64 bytes. No tile is used outside this function.
        unsafe {
            asm!(
                "test {add}, {add}",
                "jz 2f",
                "tileloadd tmm0, [{out} + {stride}]",
                "tileloadd tmm1, [{out} + {stride} + 64]",
                "tileloadd tmm2, [{lower} + {stride}]",
                "tileloadd tmm3, [{lower} + {stride} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{b0} + {line}]",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {tiles}",
                "jnz 3b",
                "tilestored [{out} + {stride}], tmm0",
                "tilestored [{out} + {stride} + 64], tmm1",
                "tilestored [{lower} + {stride}], tmm2",
                "tilestored [{lower} + {stride} + 64], tmm3",
                a0 = inout(reg) left[0] => _,
                a1 = inout(reg) left[1] => _,
                b0 = inout(reg) right[0] => _,
                b1 = inout(reg) right[1] => _,
                tiles = inout(reg) tiles => _,
                add = in(reg) usize::from(add),
                line = in(reg) size_of::<Line>(),
                out = in(reg) out,
                lower = in(reg) out.add(TILE * stride),
                stride = in(reg) stride * size_of::<f32>(),
                options(nostack),
            );
        }
    }

    /// Writes the product of a left panel by what lies in planes, at nine places of each: 32 rows of 32 floats each, `stride` apart. Line `pair` of
    /// the right tile of a block and a place begins at `planes[(16 · block + pair) · plane + place]`.
    ///
    /// # Panics
    /// If something does not fit.
    #[inline]
    pub(super) fn multiply_places(
        &self,
        left: &[Line],
        planes: &[u32],
        plane: usize,
        places: &[usize; 9],
        out: &mut [f32],
        stride: usize,
    ) {
        let half = left.len() / 2;
        let blocks = half / (9 * TILE);
        assert!(blocks > 0 && left.len() == 2 * blocks * 9 * TILE);
        assert!(planes.len() >= blocks * TILE * plane);
        assert!(places.iter().all(|place| place + PANEL <= plane));
        assert!(stride >= PANEL && out.len() >= (PANEL - 1) * stride + PANEL);
        // SAFETY: the tiles are configured. The loop reads `blocks · 9` tiles of 1024 bytes from each half of the left panel, one after the other, and for each place of each block
        // 16 lines of 128 bytes, a plane apart, each of which ends within its plane. The end writes four quarters of the 32 rows, each 16 rows of 64 bytes. No tile is used outside this function.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "xor {index:e}, {index:e}",
                "3:",
                "mov {at}, [{places} + {index}*8]",
                "lea {at}, [{b} + {at}*4]",
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{at} + {plane}]",
                "tileloadd tmm7, [{at} + {plane} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "inc {index}",
                "cmp {index}, 9",
                "jne 3b",
                "mov {at}, {plane}",
                "shl {at}, 4",
                "add {b}, {at}",
                "dec {blocks}",
                "jnz 2b",
                "mov {at}, {stride}",
                "shl {at}, 4",
                "add {at}, {out}",
                "tilestored [{out} + {stride}], tmm0",
                "tilestored [{out} + {stride} + 64], tmm1",
                "tilestored [{at} + {stride}], tmm2",
                "tilestored [{at} + {stride} + 64], tmm3",
                a0 = inout(reg) left.as_ptr() => _,
                a1 = inout(reg) left.as_ptr().add(half) => _,
                b = inout(reg) planes.as_ptr() => _,
                at = out(reg) _,
                index = out(reg) _,
                places = in(reg) places.as_ptr(),
                line = in(reg) size_of::<Line>(),
                plane = in(reg) plane * size_of::<u32>(),
                blocks = inout(reg) blocks => _,
                out = in(reg) out.as_mut_ptr(),
                stride = in(reg) stride * size_of::<f32>(),
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `on_this_thread` configured the tiles of this thread, which nothing else uses.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}
