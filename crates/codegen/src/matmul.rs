use crate::CodegenError;
use crate::kernel::Lane;
use crate::memory::Pointers;
use crate::names::Names;
use fusec_fuse::*;
use fusec_ir::*;
pub const GEMV_THREADS: usize = 256;
pub const GEMM_THREADS: usize = 256;
pub fn gemv_lane<'g>(
    _: &'g Graph,
    _: Storage,
    k: &Kernel,
    _: &Body,
    _: usize,
    _: &mut Pointers<'g>,
    _: &mut Names,
) -> Result<Lane, CodegenError> {
    Err(CodegenError::Unsupported {
        kernel: k.name.clone(),
        what: "x".into(),
    })
}
pub fn gemm_lane<'g>(
    _: &'g Graph,
    _: Storage,
    k: &Kernel,
    _: &Body,
    _: usize,
    _: &mut Pointers<'g>,
    _: &mut Names,
) -> Result<Lane, CodegenError> {
    Err(CodegenError::Unsupported {
        kernel: k.name.clone(),
        what: "x".into(),
    })
}
