//! Checks each struct and number of `phalanx::fabric::rdma::verbs` against `ibverbs-sys`, whose declarations bindgen
//! makes from rdma-core's own headers. `scripts/check-layout.sh` installs what that needs, and runs it.
//!
//! Of a struct that only the library makes, the beginning is declared: there every declared field is compared, and the
//! size must not be larger than the real one.

use std::mem::{offset_of, size_of};
use std::process::ExitCode;

use ibverbs_sys as c;
use phalanx::fabric::rdma::verbs as ours;

/// Counts what was compared and what differs.
#[derive(Default)]
struct Comparison {
    compared: usize,
    differing: usize,
}

impl Comparison {
    fn equal(&mut self, what: &str, ours: usize, theirs: usize) {
        self.holds(what, ours, theirs, ours == theirs);
    }

    fn at_most(&mut self, what: &str, ours: usize, theirs: usize) {
        self.holds(what, ours, theirs, ours <= theirs);
    }

    fn holds(&mut self, what: &str, ours: usize, theirs: usize, holds: bool) {
        self.compared += 1;
        if !holds {
            self.differing += 1;
            println!("{what}: {ours} here, {theirs} in rdma-core");
        }
    }
}

/// `same!(comparison, Ours = theirs { fields of the same name, ours => theirs })`: also the size.
macro_rules! same {
    ($comparison:ident, $ours:ident = $theirs:ident { $($fields:tt)* }) => {
        $comparison.equal(concat!("size of ", stringify!($ours)), size_of::<ours::$ours>(), size_of::<c::$theirs>());
        fields!($comparison, $ours = $theirs { $($fields)* });
    };
}

/// As `same`, for a struct that goes on in rdma-core.
macro_rules! begins {
    ($comparison:ident, $ours:ident = $theirs:ident { $($fields:tt)* }) => {
        $comparison.at_most(concat!("size of ", stringify!($ours)), size_of::<ours::$ours>(), size_of::<c::$theirs>());
        fields!($comparison, $ours = $theirs { $($fields)* });
    };
}

macro_rules! fields {
    ($comparison:ident, $ours:ident = $theirs:ident { $($field:ident)* }) => {
        $($comparison.equal(
            concat!(stringify!($ours), ".", stringify!($field)),
            offset_of!(ours::$ours, $field),
            offset_of!(c::$theirs, $field),
        );)*
    };
}

macro_rules! numbers {
    ($comparison:ident, $($ours:ident = $theirs:expr;)*) => {
        $($comparison.equal(stringify!($ours), ours::$ours as usize, $theirs as usize);)*
    };
}

fn structs(comparison: &mut Comparison) {
    begins!(comparison, Context = ibv_context { device ops cmd_fd async_fd num_comp_vectors });
    same!(comparison, ContextOps = ibv_context_ops { poll_cq post_send });
    same!(comparison, DeviceAttr = ibv_device_attr {
        fw_ver node_guid sys_image_guid max_mr_size page_size_cap vendor_id vendor_part_id hw_ver max_qp max_qp_wr
        device_cap_flags max_sge max_sge_rd max_cq max_cqe max_mr max_pd max_qp_rd_atom max_ee_rd_atom
        max_res_rd_atom max_qp_init_rd_atom max_ee_init_rd_atom atomic_cap max_ee max_rdd max_mw max_raw_ipv6_qp
        max_raw_ethy_qp max_mcast_grp max_mcast_qp_attach max_total_mcast_qp_attach max_ah max_fmr max_map_per_fmr
        max_srq max_srq_wr max_srq_sge max_pkeys local_ca_ack_delay phys_port_cnt
    });
    // It grows with rdma-core. `ibv_query_port` as the library exports it fills the oldest version only.
    begins!(comparison, PortAttr = ibv_port_attr {
        state max_mtu active_mtu gid_tbl_len port_cap_flags max_msg_sz bad_pkey_cntr qkey_viol_cntr pkey_tbl_len lid
        sm_lid lmc max_vl_num sm_sl subnet_timeout init_type_reply active_width active_speed phys_state link_layer
        flags port_cap_flags2
    });
    begins!(comparison, ProtectionDomain = ibv_pd { context handle });
    begins!(comparison, MemoryRegion = ibv_mr { context pd addr length handle lkey rkey });
    begins!(comparison, CompletionQueue = ibv_cq { context channel cq_context handle cqe });
    begins!(comparison, QueuePair = ibv_qp {
        context qp_context pd send_cq recv_cq srq handle qp_num state qp_type
    });
    same!(comparison, QueuePairCap = ibv_qp_cap {
        max_send_wr max_recv_wr max_send_sge max_recv_sge max_inline_data
    });
    same!(comparison, QueuePairInitAttr = ibv_qp_init_attr { qp_context send_cq recv_cq srq cap qp_type sq_sig_all });
    same!(comparison, GlobalRoute = ibv_global_route { dgid flow_label sgid_index hop_limit traffic_class });
    same!(comparison, GidBytes = ibv_gid {});
    same!(comparison, AddressHandleAttr = ibv_ah_attr {
        grh dlid sl src_path_bits static_rate is_global port_num
    });
    same!(comparison, QueuePairAttr = ibv_qp_attr {
        qp_state cur_qp_state path_mtu path_mig_state qkey rq_psn sq_psn dest_qp_num qp_access_flags cap ah_attr
        alt_ah_attr pkey_index alt_pkey_index en_sqd_async_notify sq_draining max_rd_atomic max_dest_rd_atomic
        min_rnr_timer port_num timeout retry_cnt rnr_retry alt_port_num alt_timeout rate_limit
    });
    same!(comparison, ScatterGather = ibv_sge { addr length lkey });
    same!(comparison, SendWorkRequest = ibv_send_wr { wr_id next sg_list num_sge opcode send_flags wr });
    same!(comparison, WorkCompletion = ibv_wc {
        qp_num src_qp wc_flags pkey_index slid sl dlid_path_bits
    });
}

/// `ibverbs-sys` hides a completion's first fields behind methods: what they read from ours must be what we wrote.
fn completion(comparison: &mut Comparison) {
    let ours = ours::WorkCompletion { wr_id: 0x0102_0304_0506_0708, byte_len: 77, ..ours::WorkCompletion::default() };
    let (status, vendor_err) = (12, 99);
    let failed = ours::WorkCompletion { status, vendor_err, ..ours };
    // SAFETY: of one size (compared above), and each value of ours is one of theirs: a success, and a retry exceeded.
    let theirs = unsafe { [ours, failed].map(|ours| std::mem::transmute::<ours::WorkCompletion, c::ibv_wc>(ours)) };
    comparison.equal("wr_id", theirs[0].wr_id() as usize, ours.wr_id as usize);
    comparison.equal("byte_len", theirs[0].len(), ours.byte_len as usize);
    comparison.equal("a success", theirs[0].is_valid().into(), 1);
    let error = theirs[1].error().map(|(status, vendor_err)| (status as u32, vendor_err));
    comparison.equal("an error", (error == Some((status, vendor_err))).into(), 1);
}

fn unions(comparison: &mut Comparison) {
    comparison.equal("size of wr", size_of::<ours::Remote>(), size_of::<c::ibv_send_wr__bindgen_ty_2>());
    begins!(comparison, RemoteWord = ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr rkey });
    same!(comparison, RemoteAtomic = ibv_send_wr__bindgen_ty_2__bindgen_ty_2 { remote_addr compare_add swap rkey });
}

fn constants(comparison: &mut Comparison) {
    numbers!(comparison,
        ATOMIC_NONE = c::IBV_ATOMIC_NONE;
        ATOMIC_HCA = c::IBV_ATOMIC_HCA;
        ATOMIC_GLOB = c::IBV_ATOMIC_GLOB;
        PORT_ACTIVE = c::ibv_port_state::IBV_PORT_ACTIVE;
        LINK_LAYER_INFINIBAND = c::IBV_LINK_LAYER_INFINIBAND;
        LINK_LAYER_ETHERNET = c::IBV_LINK_LAYER_ETHERNET;
        ACCESS_LOCAL_WRITE = c::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0;
        ACCESS_REMOTE_WRITE = c::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        ACCESS_REMOTE_READ = c::ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
        ACCESS_REMOTE_ATOMIC = c::ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC.0;
        QPT_RC = c::ibv_qp_type::IBV_QPT_RC;
        QPS_INIT = c::ibv_qp_state::IBV_QPS_INIT;
        QPS_RTR = c::ibv_qp_state::IBV_QPS_RTR;
        QPS_RTS = c::ibv_qp_state::IBV_QPS_RTS;
        QP_STATE = c::ibv_qp_attr_mask::IBV_QP_STATE.0;
        QP_ACCESS_FLAGS = c::ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS.0;
        QP_PKEY_INDEX = c::ibv_qp_attr_mask::IBV_QP_PKEY_INDEX.0;
        QP_PORT = c::ibv_qp_attr_mask::IBV_QP_PORT.0;
        QP_AV = c::ibv_qp_attr_mask::IBV_QP_AV.0;
        QP_PATH_MTU = c::ibv_qp_attr_mask::IBV_QP_PATH_MTU.0;
        QP_TIMEOUT = c::ibv_qp_attr_mask::IBV_QP_TIMEOUT.0;
        QP_RETRY_CNT = c::ibv_qp_attr_mask::IBV_QP_RETRY_CNT.0;
        QP_RNR_RETRY = c::ibv_qp_attr_mask::IBV_QP_RNR_RETRY.0;
        QP_RQ_PSN = c::ibv_qp_attr_mask::IBV_QP_RQ_PSN.0;
        QP_MAX_QP_RD_ATOMIC = c::ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC.0;
        QP_MIN_RNR_TIMER = c::ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER.0;
        QP_SQ_PSN = c::ibv_qp_attr_mask::IBV_QP_SQ_PSN.0;
        QP_MAX_DEST_RD_ATOMIC = c::ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC.0;
        QP_DEST_QPN = c::ibv_qp_attr_mask::IBV_QP_DEST_QPN.0;
        WR_RDMA_WRITE = c::ibv_wr_opcode::IBV_WR_RDMA_WRITE;
        WR_RDMA_READ = c::ibv_wr_opcode::IBV_WR_RDMA_READ;
        WR_ATOMIC_CMP_AND_SWP = c::ibv_wr_opcode::IBV_WR_ATOMIC_CMP_AND_SWP;
        WR_ATOMIC_FETCH_AND_ADD = c::ibv_wr_opcode::IBV_WR_ATOMIC_FETCH_AND_ADD;
        SEND_FENCE = c::ibv_send_flags::IBV_SEND_FENCE.0;
        SEND_SIGNALED = c::ibv_send_flags::IBV_SEND_SIGNALED.0;
        SEND_INLINE = c::ibv_send_flags::IBV_SEND_INLINE.0;
        WC_SUCCESS = c::ibv_wc_status::IBV_WC_SUCCESS;
    );
}

fn main() -> ExitCode {
    let mut comparison = Comparison::default();
    structs(&mut comparison);
    completion(&mut comparison);
    unions(&mut comparison);
    constants(&mut comparison);
    println!("{} sizes, offsets and numbers compared, {} differ", comparison.compared, comparison.differing);
    if comparison.differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
