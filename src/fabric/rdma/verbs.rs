//! The few declarations of libibverbs that one-sided operations need, and the library itself, loaded at run time.
//!
//! A build needs no rdma-core, and one binary runs on machines with and without RDMA: the library is looked for when a
//! device is first asked for. Names are those of `<infiniband/verbs.h>` without the prefix. Structs have the layout of
//! 64-bit Linux, asserted here by number and checked against rdma-core's own declarations by
//! `hwtests/check-layout`. Those that the library makes and of which only the beginning is of use
//! ([`Context`], [`QueuePair`], [`CompletionQueue`], …) are declared as far as that and never made here.
//!
//! Posting and polling are inline functions in C that go through the context's table of functions
//! ([`ContextOps`]), so that no lookup stands between a caller and its driver; [`post_send`] and [`poll_cq`] do the
//! same.
#![allow(unsafe_code, reason = "declares and calls a C library")]
#![allow(missing_docs, reason = "the fields are those of ibv_*(3), which documents them")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use libloading::Library;

const LIBRARY: &str = "libibverbs.so.1";

/// What an address or a port is called on RDMA networks: 16 bytes in network order.
pub type Gid = [u8; 16];

#[repr(C)]
pub struct Device {
    _private: [u8; 0],
}

/// Only ever behind a pointer that the library gave. See [`ContextOps`].
#[repr(C)]
pub struct Context {
    pub device: *mut Device,
    pub ops: ContextOps,
    pub cmd_fd: c_int,
    pub async_fd: c_int,
    pub num_comp_vectors: c_int,
}

/// A driver's functions. Entries that C calls by other ways, or that nobody here calls, are words without a name.
#[repr(C)]
pub struct ContextOps {
    _before_poll_cq: [usize; 11],
    pub poll_cq: Option<unsafe extern "C" fn(*mut CompletionQueue, c_int, *mut WorkCompletion) -> c_int>,
    _before_post_send: [usize; 13],
    pub post_send:
        Option<unsafe extern "C" fn(*mut QueuePair, *mut SendWorkRequest, *mut *mut SendWorkRequest) -> c_int>,
    _after_post_send: [usize; 6],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct DeviceAttr {
    pub fw_ver: [c_char; 64],
    pub node_guid: u64,
    pub sys_image_guid: u64,
    pub max_mr_size: u64,
    pub page_size_cap: u64,
    pub vendor_id: u32,
    pub vendor_part_id: u32,
    pub hw_ver: u32,
    pub max_qp: c_int,
    pub max_qp_wr: c_int,
    pub device_cap_flags: c_uint,
    pub max_sge: c_int,
    pub max_sge_rd: c_int,
    pub max_cq: c_int,
    pub max_cqe: c_int,
    pub max_mr: c_int,
    pub max_pd: c_int,
    pub max_qp_rd_atom: c_int,
    pub max_ee_rd_atom: c_int,
    pub max_res_rd_atom: c_int,
    pub max_qp_init_rd_atom: c_int,
    pub max_ee_init_rd_atom: c_int,
    pub atomic_cap: c_uint,
    pub max_ee: c_int,
    pub max_rdd: c_int,
    pub max_mw: c_int,
    pub max_raw_ipv6_qp: c_int,
    pub max_raw_ethy_qp: c_int,
    pub max_mcast_grp: c_int,
    pub max_mcast_qp_attach: c_int,
    pub max_total_mcast_qp_attach: c_int,
    pub max_ah: c_int,
    pub max_fmr: c_int,
    pub max_map_per_fmr: c_int,
    pub max_srq: c_int,
    pub max_srq_wr: c_int,
    pub max_srq_sge: c_int,
    pub max_pkeys: u16,
    pub local_ca_ack_delay: u8,
    pub phys_port_cnt: u8,
}

pub const ATOMIC_NONE: c_uint = 0;
pub const ATOMIC_HCA: c_uint = 1;
pub const ATOMIC_GLOB: c_uint = 2;

/// Newer headers have more at its end, which the function that the library exports by the name of `ibv_query_port` does
/// not fill: headers go round it by a macro.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PortAttr {
    pub state: c_uint,
    pub max_mtu: c_uint,
    pub active_mtu: c_uint,
    pub gid_tbl_len: c_int,
    pub port_cap_flags: u32,
    pub max_msg_sz: u32,
    pub bad_pkey_cntr: u32,
    pub qkey_viol_cntr: u32,
    pub pkey_tbl_len: u16,
    pub lid: u16,
    pub sm_lid: u16,
    pub lmc: u8,
    pub max_vl_num: u8,
    pub sm_sl: u8,
    pub subnet_timeout: u8,
    pub init_type_reply: u8,
    pub active_width: u8,
    pub active_speed: u8,
    pub phys_state: u8,
    pub link_layer: u8,
    pub flags: u8,
    pub port_cap_flags2: u16,
}

pub const PORT_ACTIVE: c_uint = 4;
pub const LINK_LAYER_INFINIBAND: u8 = 1;
pub const LINK_LAYER_ETHERNET: u8 = 2;

/// Only ever behind a pointer that the library gave.
#[repr(C)]
pub struct ProtectionDomain {
    pub context: *mut Context,
    pub handle: u32,
}

/// Only ever behind a pointer that the library gave.
#[repr(C)]
pub struct MemoryRegion {
    pub context: *mut Context,
    pub pd: *mut ProtectionDomain,
    pub addr: *mut c_void,
    pub length: usize,
    pub handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

pub const ACCESS_LOCAL_WRITE: c_uint = 1;
pub const ACCESS_REMOTE_WRITE: c_uint = 1 << 1;
pub const ACCESS_REMOTE_READ: c_uint = 1 << 2;
pub const ACCESS_REMOTE_ATOMIC: c_uint = 1 << 3;

/// Only ever behind a pointer that the library gave; goes on with a mutex.
#[repr(C)]
pub struct CompletionQueue {
    pub context: *mut Context,
    pub channel: *mut c_void,
    pub cq_context: *mut c_void,
    pub handle: u32,
    pub cqe: c_int,
}

/// Only ever behind a pointer that the library gave; goes on with a mutex.
#[repr(C)]
pub struct QueuePair {
    pub context: *mut Context,
    pub qp_context: *mut c_void,
    pub pd: *mut ProtectionDomain,
    pub send_cq: *mut CompletionQueue,
    pub recv_cq: *mut CompletionQueue,
    pub srq: *mut c_void,
    pub handle: u32,
    pub qp_num: u32,
    pub state: c_uint,
    pub qp_type: c_uint,
}

pub const QPT_RC: c_uint = 2;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct QueuePairCap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

#[repr(C)]
pub struct QueuePairInitAttr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut CompletionQueue,
    pub recv_cq: *mut CompletionQueue,
    pub srq: *mut c_void,
    pub cap: QueuePairCap,
    pub qp_type: c_uint,
    pub sq_sig_all: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct GlobalRoute {
    pub dgid: GidBytes,
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

/// A [`Gid`] with the alignment that C's union has.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub struct GidBytes(pub Gid);

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct AddressHandleAttr {
    pub grh: GlobalRoute,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct QueuePairAttr {
    pub qp_state: c_uint,
    pub cur_qp_state: c_uint,
    pub path_mtu: c_uint,
    pub path_mig_state: c_uint,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: c_uint,
    pub cap: QueuePairCap,
    pub ah_attr: AddressHandleAttr,
    pub alt_ah_attr: AddressHandleAttr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

pub const QPS_INIT: c_uint = 1;
pub const QPS_RTR: c_uint = 2;
pub const QPS_RTS: c_uint = 3;
#[cfg(feature = "testing")]
pub const QPS_ERR: c_uint = 6;

pub const QP_STATE: c_int = 1;
pub const QP_ACCESS_FLAGS: c_int = 1 << 3;
pub const QP_PKEY_INDEX: c_int = 1 << 4;
pub const QP_PORT: c_int = 1 << 5;
pub const QP_AV: c_int = 1 << 7;
pub const QP_PATH_MTU: c_int = 1 << 8;
pub const QP_TIMEOUT: c_int = 1 << 9;
pub const QP_RETRY_CNT: c_int = 1 << 10;
pub const QP_RNR_RETRY: c_int = 1 << 11;
pub const QP_RQ_PSN: c_int = 1 << 12;
pub const QP_MAX_QP_RD_ATOMIC: c_int = 1 << 13;
pub const QP_MIN_RNR_TIMER: c_int = 1 << 15;
pub const QP_SQ_PSN: c_int = 1 << 16;
pub const QP_MAX_DEST_RD_ATOMIC: c_int = 1 << 17;
pub const QP_DEST_QPN: c_int = 1 << 20;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ScatterGather {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

/// `wr.rdma` and `wr.atomic` of C's union in one: both begin with the address, and a write's or read's key stands where
/// an atomic's first operand is.
#[repr(C)]
#[derive(Clone, Copy)]
pub union Remote {
    pub rdma: RemoteWord,
    pub atomic: RemoteAtomic,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct RemoteWord {
    pub remote_addr: u64,
    pub rkey: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct RemoteAtomic {
    pub remote_addr: u64,
    pub compare_add: u64,
    pub swap: u64,
    pub rkey: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct SendWorkRequest {
    pub wr_id: u64,
    pub next: *mut SendWorkRequest,
    pub sg_list: *mut ScatterGather,
    pub num_sge: c_int,
    pub opcode: c_uint,
    pub send_flags: c_uint,
    pub imm_data: u32,
    pub wr: Remote,
    pub remote_srqn: u32,
    /// What C's last union holds, for other kinds of requests.
    _bind_mw: [u64; 6],
}

impl SendWorkRequest {
    /// A request of nothing, to be filled in.
    pub const EMPTY: Self = Self {
        wr_id: 0,
        next: std::ptr::null_mut(),
        sg_list: std::ptr::null_mut(),
        num_sge: 1,
        opcode: 0,
        send_flags: 0,
        imm_data: 0,
        wr: Remote { atomic: RemoteAtomic { remote_addr: 0, compare_add: 0, swap: 0, rkey: 0 } },
        remote_srqn: 0,
        _bind_mw: [0; 6],
    };
}

pub const WR_RDMA_WRITE: c_uint = 0;
pub const WR_RDMA_READ: c_uint = 4;
pub const WR_ATOMIC_CMP_AND_SWP: c_uint = 5;
pub const WR_ATOMIC_FETCH_AND_ADD: c_uint = 6;

pub const SEND_FENCE: c_uint = 1;
pub const SEND_SIGNALED: c_uint = 1 << 1;
pub const SEND_INLINE: c_uint = 1 << 3;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct WorkCompletion {
    pub wr_id: u64,
    pub status: c_uint,
    pub opcode: c_uint,
    pub vendor_err: u32,
    pub byte_len: u32,
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: c_uint,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

pub const WC_SUCCESS: c_uint = 0;

const _: () = {
    assert!(size_of::<ContextOps>() == 32 * 8);
    assert!(size_of::<DeviceAttr>() == 232);
    assert!(size_of::<PortAttr>() == 52);
    assert!(size_of::<QueuePairInitAttr>() == 64);
    assert!(size_of::<AddressHandleAttr>() == 32);
    assert!(size_of::<QueuePairAttr>() == 144);
    assert!(size_of::<ScatterGather>() == 16);
    assert!(size_of::<SendWorkRequest>() == 128);
    assert!(size_of::<WorkCompletion>() == 48);
};

/// What the system's loader says, which the error has as its source.
fn reason(error: libloading::Error) -> String {
    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
}

macro_rules! library {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The library's functions.
        pub struct Verbs {
            $(pub $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// Keeps the functions where they are.
            _library: Library,
        }

        impl Verbs {
            fn load() -> Result<Self, String> {
                // SAFETY: libibverbs' initialisers only read the system's configuration.
                let library = unsafe { Library::new(LIBRARY) }.map_err(reason)?;
                Ok(Self {
                    // SAFETY: the types are those of <infiniband/verbs.h>. Without a version dlsym gives a symbol's
                    // default one, for which that header is written.
                    $($field: *unsafe { library.get($symbol) }.map_err(reason)?,)*
                    _library: library,
                })
            }
        }
    };
}

library! {
    get_device_list = b"ibv_get_device_list\0": fn(*mut c_int) -> *mut *mut Device;
    free_device_list = b"ibv_free_device_list\0": fn(*mut *mut Device);
    get_device_name = b"ibv_get_device_name\0": fn(*mut Device) -> *const c_char;
    open_device = b"ibv_open_device\0": fn(*mut Device) -> *mut Context;
    close_device = b"ibv_close_device\0": fn(*mut Context) -> c_int;
    query_device = b"ibv_query_device\0": fn(*mut Context, *mut DeviceAttr) -> c_int;
    query_port = b"ibv_query_port\0": fn(*mut Context, u8, *mut PortAttr) -> c_int;
    query_gid = b"ibv_query_gid\0": fn(*mut Context, u8, c_int, *mut GidBytes) -> c_int;
    alloc_pd = b"ibv_alloc_pd\0": fn(*mut Context) -> *mut ProtectionDomain;
    dealloc_pd = b"ibv_dealloc_pd\0": fn(*mut ProtectionDomain) -> c_int;
    reg_mr = b"ibv_reg_mr\0": fn(*mut ProtectionDomain, *mut c_void, usize, c_int) -> *mut MemoryRegion;
    dereg_mr = b"ibv_dereg_mr\0": fn(*mut MemoryRegion) -> c_int;
    create_cq = b"ibv_create_cq\0": fn(*mut Context, c_int, *mut c_void, *mut c_void, c_int) -> *mut CompletionQueue;
    destroy_cq = b"ibv_destroy_cq\0": fn(*mut CompletionQueue) -> c_int;
    create_qp = b"ibv_create_qp\0": fn(*mut ProtectionDomain, *mut QueuePairInitAttr) -> *mut QueuePair;
    modify_qp = b"ibv_modify_qp\0": fn(*mut QueuePair, *mut QueuePairAttr, c_int) -> c_int;
    destroy_qp = b"ibv_destroy_qp\0": fn(*mut QueuePair) -> c_int;
    wc_status_str = b"ibv_wc_status_str\0": fn(c_uint) -> *const c_char;
}

impl Verbs {
    /// The library, loaded once for the process and never unloaded; or what the system's loader says.
    pub fn get() -> Result<&'static Self, &'static str> {
        static VERBS: OnceLock<Result<Verbs, String>> = OnceLock::new();
        VERBS.get_or_init(Self::load).as_ref().map_err(String::as_str)
    }

    /// A completion's status in words.
    pub fn status_text(&self, status: c_uint) -> String {
        // SAFETY: takes any number, and gives a string that lives as long as the library.
        unsafe { CStr::from_ptr((self.wc_status_str)(status)) }.to_string_lossy().into_owned()
    }
}

/// Posts a list of work requests; the first that was not posted is in `bad`.
///
/// # Safety
///
/// The queue pair is alive; the requests form a list through `next`, each with as many entries of memory as it says;
/// memory that is not sent inline stays registered and unmoved until the request has completed.
#[inline]
pub unsafe fn post_send(
    queue_pair: *mut QueuePair,
    first: *mut SendWorkRequest,
    bad: &mut *mut SendWorkRequest,
) -> c_int {
    // SAFETY: a live queue pair has a live context, whose table the driver has filled; the rest is the caller's.
    unsafe { (*(*queue_pair).context).ops.post_send.expect("a driver can post")(queue_pair, first, bad) }
}

/// Takes completions off the queue, as many as there is room for, and gives them; `None` for an error.
///
/// # Safety
///
/// The queue is alive.
#[inline]
pub unsafe fn poll_cq(
    queue: *mut CompletionQueue,
    room: &mut [MaybeUninit<WorkCompletion>],
) -> Option<&[WorkCompletion]> {
    let most = c_int::try_from(room.len()).unwrap_or(c_int::MAX);
    let first: *mut WorkCompletion = room.as_mut_ptr().cast();
    // SAFETY: a live queue has a live context, whose table the driver has filled; there is room for as many as asked.
    let count = unsafe { (*(*queue).context).ops.poll_cq.expect("a driver can poll")(queue, most, first) };
    let count = usize::try_from(count).ok().filter(|count| *count <= room.len())?;
    // SAFETY: the driver has written as many as it says.
    Some(unsafe { std::slice::from_raw_parts(first, count) })
}
