//! What tests put between a simulated node and its fabric, to have a say in what is posted and what comes back.

/// In an `impl Fabric`: all but `post` and `take` is left to `self.fabric`.
#[allow(unused_macros, reason = "as `dead_code`, for this module's parent")]
macro_rules! all_but_post_and_take {
    () => {
        fn here(&self) -> usize {
            self.fabric.here()
        }

        fn nodes(&self) -> usize {
            self.fabric.nodes()
        }

        fn words_of(&self, node: usize) -> usize {
            self.fabric.words_of(node)
        }

        fn kind_of(&self, node: usize) -> phalanx::fabric::FabricKind {
            self.fabric.kind_of(node)
        }

        fn atomic_scope(&self, node: usize) -> phalanx::fabric::AtomicScope {
            self.fabric.atomic_scope(node)
        }

        fn incarnation(&self, node: usize) -> u64 {
            self.fabric.incarnation(node)
        }

        fn progress(&self) {
            self.fabric.progress();
        }

        fn forget(&self, ticket: phalanx::fabric::Ticket) {
            self.fabric.forget(ticket);
        }
    };
}

#[allow(unused_imports, reason = "as `dead_code`, for this module's parent")]
pub(crate) use all_but_post_and_take;
