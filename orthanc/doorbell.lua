-- Notifies the extractor of stored images: writes one byte to a file that the extractor watches by inotify, so that it need not poll.
-- Runs in both Orthancs. If a notification is lost, the extractor finds the image after POLL_INTERVAL at the latest.
-- Each callback first calls the callback of the same name that an operator's script may have defined before.

local settings = (GetOrthancConfiguration() or {})['Ddwd'] or {}
local bell = settings['Doorbell']
local complained = false

local function ring()
  if not (bell and io) then
    return
  end
  local file = io.open(bell, 'w')
  if file then
    file:write('.')
    file:close()
  elseif not complained then
    complained = true
    print('ddwd: the doorbell ' .. bell .. ' cannot be written; studies wait for the poll (POLL_INTERVAL). '
      .. 'To correct it, restart ddwd-provision')
  end
end

local stored_before = OnStoredInstance
function OnStoredInstance(instance, tags, metadata, origin)
  if stored_before then
    stored_before(instance, tags, metadata, origin)
  end
  ring()
end

local stable_before = OnStableStudy
function OnStableStudy(study, tags, metadata)
  if stable_before then
    stable_before(study, tags, metadata)
  end
  ring()
end
