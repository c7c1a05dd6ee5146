//! One end of a connection: a queue pair with its completion queue.
#![allow(unsafe_code, reason = "calls libibverbs")]

use std::ffi::c_int;
use std::io;
use std::sync::Arc;

use super::device::{Choice, DeviceFacts, Domain};
use super::memory::Registration;
use super::offer::{LinkLayer, Offer};
use super::options::{RdmaError, RdmaOptions};
use super::verbs::{
    self, AddressHandleAttr, CompletionQueue, GidBytes, GlobalRoute, QueuePair, QueuePairAttr, QueuePairCap,
    QueuePairInitAttr,
};

/// Bytes that are asked to fit into a work request: a word.
const INLINE_BYTES: u32 = 8;
/// A receiver that is not ready asks for 0.64 ms; nothing here receives, so it never comes to that.
const RNR_TIMER: u8 = 12;
/// How many routers a packet may pass.
const HOP_LIMIT: u8 = 64;

/// A queue pair and its completion queue. Dropping it ends the connection; after that the adapter touches none of this
/// process's memory on its behalf.
pub(super) struct Endpoint {
    queue_pair: *mut QueuePair,
    completions: *mut CompletionQueue,
    domain: Arc<Domain>,
    first_packet: u32,
    has_inline: bool,
}

// SAFETY: verbs may be called from any thread; the pointers never change.
unsafe impl Send for Endpoint {}

impl Endpoint {
    /// A queue pair with room for `depth` requests, ready to be connected.
    pub fn new(domain: &Arc<Domain>, choice: &Choice, options: &RdmaOptions, depth: usize) -> Result<Self, RdmaError> {
        // When a connection breaks, each request that was under way gets a completion.
        let room = c_int::try_from(depth).unwrap_or(c_int::MAX);
        let null = std::ptr::null_mut();
        // SAFETY: the context is open; no channel is given.
        let completions = unsafe { (domain.verbs.create_cq)(domain.context, room, null, null, 0) };
        if completions.is_null() {
            return Err(domain.error("create a completion queue"));
        }
        let mut endpoint = Self {
            queue_pair: std::ptr::null_mut(),
            completions,
            domain: Arc::clone(domain),
            first_packet: random_24_bits(),
            has_inline: false,
        };
        let wanted = if options.inline { INLINE_BYTES } else { 0 };
        let depth = u32::try_from(depth).unwrap_or(u32::MAX);
        // A device without inline data may refuse the wish instead of saying that it has none.
        if !endpoint.create(depth, wanted) && (wanted == 0 || !endpoint.create(depth, 0)) {
            return Err(domain.error("create a queue pair"));
        }
        endpoint.initialise(choice, options)?;
        Ok(endpoint)
    }

    fn create(&mut self, depth: u32, inline_bytes: u32) -> bool {
        // Nothing is ever received, but some drivers refuse a queue of nothing.
        let cap = QueuePairCap {
            max_send_wr: depth,
            max_recv_wr: 1,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: inline_bytes,
        };
        let mut init = QueuePairInitAttr {
            qp_context: std::ptr::null_mut(),
            send_cq: self.completions,
            recv_cq: self.completions,
            srq: std::ptr::null_mut(),
            cap,
            qp_type: verbs::QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: domain and completion queue are alive; the attributes are a place to read from and write to.
        self.queue_pair = unsafe { (self.domain.verbs.create_qp)(self.domain.domain, &raw mut init) };
        // On success the library writes what was granted over what was asked for.
        self.has_inline = inline_bytes > 0 && init.cap.max_inline_data >= INLINE_BYTES;
        !self.queue_pair.is_null()
    }

    fn initialise(&self, choice: &Choice, options: &RdmaOptions) -> Result<(), RdmaError> {
        let access = verbs::ACCESS_REMOTE_WRITE | verbs::ACCESS_REMOTE_READ | verbs::ACCESS_REMOTE_ATOMIC;
        let mut attr = QueuePairAttr {
            qp_state: verbs::QPS_INIT,
            pkey_index: options.pkey_index,
            port_num: choice.port,
            qp_access_flags: access,
            ..QueuePairAttr::default()
        };
        let mask = verbs::QP_STATE | verbs::QP_PKEY_INDEX | verbs::QP_PORT | verbs::QP_ACCESS_FLAGS;
        if self.modify("initialise a queue pair", &mut attr, mask).is_ok() {
            return Ok(());
        }
        // A device without atomics may refuse to grant them.
        attr.qp_access_flags &= !verbs::ACCESS_REMOTE_ATOMIC;
        self.modify("initialise a queue pair", &mut attr, mask)
    }

    fn modify(&self, step: &'static str, attr: &mut QueuePairAttr, mask: c_int) -> Result<(), RdmaError> {
        // SAFETY: the queue pair is alive; the attributes named by the mask are set.
        self.domain.checked(step, unsafe { (self.domain.verbs.modify_qp)(self.queue_pair, &raw mut *attr, mask) })
    }

    /// What the other end needs to know.
    pub fn offer(&self, facts: &DeviceFacts, choice: &Choice, segment: &Registration) -> Offer {
        Offer {
            link_layer: choice.link_layer,
            atomics: facts.atomics,
            // SAFETY: alive until `drop`.
            queue_pair: unsafe { (*self.queue_pair).qp_num },
            first_packet: self.first_packet,
            gid: choice.gid,
            lid: choice.lid,
            mtu: choice.mtu,
            served_at_once: facts.served_at_once.max(1),
            key: segment.remote_key(),
            base: segment.memory().base(),
            words: segment.memory().words() as u64,
        }
    }

    /// Connects to the end that made `peer`. On Ethernet this asks for the peer's address and may take a while.
    pub fn connect(
        &self,
        facts: &DeviceFacts,
        choice: &Choice,
        options: &RdmaOptions,
        peer: &Offer,
    ) -> Result<(), RdmaError> {
        self.become_ready_to_receive(facts, choice, options, peer)?;
        self.become_ready_to_send(facts, options, peer)
    }

    fn become_ready_to_receive(
        &self,
        facts: &DeviceFacts,
        choice: &Choice,
        options: &RdmaOptions,
        peer: &Offer,
    ) -> Result<(), RdmaError> {
        let mut attr = QueuePairAttr {
            qp_state: verbs::QPS_RTR,
            path_mtu: choice.mtu.min(peer.mtu).into(),
            dest_qp_num: peer.queue_pair,
            rq_psn: peer.first_packet,
            max_dest_rd_atomic: facts.served_at_once,
            min_rnr_timer: RNR_TIMER,
            ah_attr: path_to(choice, options, peer),
            ..QueuePairAttr::default()
        };
        let mask = verbs::QP_STATE
            | verbs::QP_AV
            | verbs::QP_PATH_MTU
            | verbs::QP_DEST_QPN
            | verbs::QP_RQ_PSN
            | verbs::QP_MAX_DEST_RD_ATOMIC
            | verbs::QP_MIN_RNR_TIMER;
        self.modify("find the way to a peer", &mut attr, mask)
    }

    fn become_ready_to_send(&self, facts: &DeviceFacts, options: &RdmaOptions, peer: &Offer) -> Result<(), RdmaError> {
        let mut attr = QueuePairAttr {
            qp_state: verbs::QPS_RTS,
            sq_psn: self.first_packet,
            timeout: options.timeout_exponent,
            retry_cnt: options.retries,
            rnr_retry: options.rnr_retries,
            // The adapter holds back reads and atomics beyond this; the peer would refuse them.
            max_rd_atomic: facts.under_way.max(1).min(peer.served_at_once),
            ..QueuePairAttr::default()
        };
        let mask = verbs::QP_STATE
            | verbs::QP_SQ_PSN
            | verbs::QP_TIMEOUT
            | verbs::QP_RETRY_CNT
            | verbs::QP_RNR_RETRY
            | verbs::QP_MAX_QP_RD_ATOMIC;
        self.modify("connect a queue pair", &mut attr, mask)
    }

    /// Puts the queue pair into its error state.
    #[cfg(feature = "testing")]
    pub fn break_down(&self) -> Result<(), RdmaError> {
        let mut attr = QueuePairAttr { qp_state: verbs::QPS_ERR, ..QueuePairAttr::default() };
        self.modify("break a queue pair", &mut attr, verbs::QP_STATE)
    }

    pub fn queue_pair(&self) -> *mut QueuePair {
        self.queue_pair
    }

    pub fn completions(&self) -> *mut CompletionQueue {
        self.completions
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether a word can be copied into the work request.
    pub fn has_inline(&self) -> bool {
        self.has_inline
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // SAFETY: made by this library, not used after this, and the queue pair goes before its queue.
        unsafe {
            if !self.queue_pair.is_null() {
                (self.domain.verbs.destroy_qp)(self.queue_pair);
            }
            (self.domain.verbs.destroy_cq)(self.completions);
        }
    }
}

fn path_to(choice: &Choice, options: &RdmaOptions, peer: &Offer) -> AddressHandleAttr {
    let is_global = choice.is_global || (choice.link_layer == LinkLayer::InfiniBand && peer.lid == 0);
    AddressHandleAttr {
        grh: GlobalRoute {
            dgid: GidBytes(peer.gid),
            flow_label: 0,
            sgid_index: choice.gid_index,
            hop_limit: HOP_LIMIT,
            traffic_class: options.traffic_class,
        },
        dlid: peer.lid,
        sl: options.service_level,
        src_path_bits: 0,
        static_rate: 0,
        is_global: is_global.into(),
        port_num: choice.port,
    }
}

/// A connection starts at a number that an earlier one's late packets are unlikely to have.
fn random_24_bits() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness the numbers of the queue pairs still differ.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    u32::from_le_bytes(bytes) & 0xff_ffff
}

/// The system's answer to a failed post, as an error.
pub(super) fn post_error(result: c_int) -> io::Error {
    if result > 0 { io::Error::from_raw_os_error(result) } else { io::Error::last_os_error() }
}
