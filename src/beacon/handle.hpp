// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nats/nats.h>

#include <memory>
#include <string>

namespace penstock::beacon {

/// Frees a C handle by its own function.
template <auto Destroy>
struct Free {
  template <class T>
  void operator()(T* handle) const noexcept {
    Destroy(handle);
  }
};
using MessageHandle = std::unique_ptr<natsMsg, Free<natsMsg_Destroy>>;
using OptionsHandle = std::unique_ptr<natsOptions, Free<natsOptions_Destroy>>;
/// To be destroyed after its connection: nats.c 3.4 looks a subscription up and then uses it without a hold on it, so that a
/// message that comes in meanwhile would find it freed. Unsubscribe from what is not wanted any more.
using SubscriptionHandle = std::unique_ptr<natsSubscription, Free<natsSubscription_Destroy>>;
using JetStreamHandle = std::unique_ptr<jsCtx, Free<jsCtx_Destroy>>;
using StreamInfoHandle = std::unique_ptr<jsStreamInfo, Free<jsStreamInfo_Destroy>>;
using ConsumerInfoHandle = std::unique_ptr<jsConsumerInfo, Free<jsConsumerInfo_Destroy>>;

/// What the client library says of this thread's last failed call.
inline std::string last_error(natsStatus status) {
  natsStatus last = NATS_OK;
  const char* text = nats_GetLastError(&last);
  if (last == status && text != nullptr && *text != '\0') return text;
  return natsStatus_GetText(status);
}

}  // namespace penstock::beacon
