-- Forwards images from ORTHANC1 to ORTHANC2 without delay: STOW-RS by the DICOMweb plugin, in asynchronous jobs, without waiting for the peer.
--   streaming: each heart beat (1 s) and each stable study sends the instances that were stored since the last one, in batches.
--   stable:    a study is sent once it is stable (StableAge).
-- A job that is lost here loses no image: the extractor compares both Orthancs and sends missing images.
-- If ddwd.yaml has routes (routes.lua), a study is forwarded only if its route says so, and its job has the route's priority.
-- All callbacks run in one thread of Orthanc. A callback of the same name, defined before by a script of the operator, is called first.
-- The callback for each stored image is not used: Orthanc puts all elements of the image on Lua's stack without enlarging it, and sequences nested nine deep,
-- as in structured reports, overwrite other memory (LuaContext::PushJson, Orthanc 1.12.7). So the list of changes is read.

local settings = (GetOrthancConfiguration() or {})['Ddwd'] or {}
local streaming = settings['Mode'] ~= 'stable'
local batch = settings['Batch'] or 40

local RESENT = "ddwd's extractor will send again; check storage with: ddwd status"
local MAX_SUBMITS = 3    -- tries of a batch before it is left to the extractor
local MAX_IDS = 20000    -- IDs that are kept while submits fail
local ENOTDIR = 20       -- errno of Linux for a file that is opened as a folder
local PAGE = 500         -- changes in one answer

local FORWARD_ALL = { Forward = true, Priority = 0 }  -- the only route if ddwd.yaml has no routes

local waiting = {}       -- priority -> IDs of instances that are not in a job yet, the oldest first
local priorities = {}    -- priorities in use, the highest first
local failures = 0       -- submits that failed in a row

local function say(text)
  print('ddwd: ' .. text)
end

-- Submits `ids` as a STOW job and returns whether Orthanc took it. The third argument must be false to reach the plugin; with
-- true as a second argument DumpJson would turn the booleans into strings.
local function submit(ids, priority)
  local body = { Resources = ids, Synchronous = false, Asynchronous = true, Priority = priority }
  local answer = RestApiPost('/dicom-web/servers/storage/stow', DumpJson(body), false)
  return answer ~= nil
end

local function queue(priority)
  if not waiting[priority] then
    waiting[priority] = {}
    priorities[#priorities + 1] = priority
    table.sort(priorities, function(one, other) return one > other end)
  end
  return waiting[priority]
end

local function take(priority, count)
  local ids, rest = {}, {}
  for index, id in ipairs(waiting[priority]) do
    if index <= count then
      ids[#ids + 1] = id
    else
      rest[#rest + 1] = id
    end
  end
  waiting[priority] = rest
  return ids
end

local function put_back(ids, priority)
  for _, id in ipairs(waiting[priority]) do
    ids[#ids + 1] = id
  end
  waiting[priority] = ids
end

local function refused(ids, priority)
  failures = failures + 1
  if failures >= MAX_SUBMITS or #ids + #waiting[priority] > MAX_IDS then
    say('could not submit ' .. #ids .. ' instances to storage in ' .. failures .. ' tries; ' .. RESENT)
    failures = 0
  else
    put_back(ids, priority)
  end
end

-- Returns whether the extractor has paused forwarding, because storage is short of space. Instances collected meanwhile are dropped
-- here; the extractor sends them once there is space again.
local function paused()
  if not (settings['Paused'] and io) then
    return false
  end
  -- opened as if it were a folder, which of a file is ENOTDIR: a pipe that another user put there is not waited for
  local folder, _, code = io.open(settings['Paused'] .. '/.', 'r')
  if folder then
    folder:close()
  end
  return code == ENOTDIR
end

local function anything_waits()
  for _, priority in ipairs(priorities) do
    if #waiting[priority] > 0 then
      return true
    end
  end
  return false
end

-- Sends the waiting instances in batches, the highest priority first; stops at the first failure, and the next heart beat continues.
local function flush()
  if anything_waits() and paused() then
    waiting, priorities = {}, {}
  end
  for _, priority in ipairs(priorities) do
    while #waiting[priority] > 0 do
      local ids = take(priority, batch)
      if not submit(ids, priority) then
        refused(ids, priority)
        return
      end
      failures = 0
    end
  end
end

local function collect(instance)
  local route = FORWARD_ALL
  if DdwdRoutes then
    route = DdwdRoutes.of(instance)
  end
  if streaming and route and route.Forward then
    local ids = queue(route.Priority)
    ids[#ids + 1] = instance
  end
end

local seen = nil         -- sequence number of the last change that was read; nil before the first

local function changes(query)
  local answer = RestApiGet('/changes?' .. query, false)
  return answer and ParseJson(answer)
end

-- Collects the instances that were stored since the last call. What was stored before Orthanc started is left to the extractor.
local function collect_new()
  if not seen then
    local newest = changes('last')
    seen = newest and newest['Last']
    return
  end
  repeat
    local page = changes('limit=' .. PAGE .. '&since=' .. string.format('%d', seen))
    for _, change in ipairs(page and page['Changes'] or {}) do
      if change['ChangeType'] == 'NewInstance' then
        collect(change['ID'])
      end
    end
    seen = page and page['Last'] or seen
  until not page or page['Done']
end

-- Called once Orthanc has started.
local initialize_before = Initialize
function Initialize()
  if initialize_before then
    initialize_before()
  end
  collect_new()
end

local beat_before = OnHeartBeat
function OnHeartBeat()
  if beat_before then
    beat_before()
  end
  collect_new()
  flush()
end

local function forward_stable(study)
  local route = FORWARD_ALL
  if DdwdRoutes then
    route = DdwdRoutes.kept(study)
  end
  if not (route and route.Forward) or paused() then
    return
  end
  if not submit({ study }, route.Priority) then
    local ids = queue(route.Priority)
    ids[#ids + 1] = study
    say('could not submit study ' .. study .. ' to storage, trying again; ' .. RESENT)
  end
end

local stable_before = OnStableStudy
function OnStableStudy(study, tags, metadata)
  if stable_before then
    stable_before(study, tags, metadata)
  end
  collect_new()
  if streaming then
    flush()
  else
    forward_stable(study)
  end
end

local failure_before = OnJobFailure
function OnJobFailure(job)
  if failure_before then
    failure_before(job)
  end
  local answer = RestApiGet('/jobs/' .. job, false)
  local known = answer and ParseJson(answer) or {}
  if known['Type'] == 'DicomWebStowClient' then
    say('forward job ' .. job .. ' failed (' .. tostring(known['ErrorDescription']) .. '); ' .. RESENT)
  end
end
